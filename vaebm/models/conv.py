"""VAE and energy for small images (8 to 32 pixels), made of a few convolutions."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vaebm.distributions import DiagonalNormal, GaussianPixels
from vaebm.errors import UsageError
from vaebm.models.base import Energy, models
from vaebm.models.layers import SpectralPenalty, float32_linear, weight_matrices
from vaebm.models.vector import VectorVAE


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(SiLU(x)))), with a 1×1 convolution on the skip where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to features of the new width."""
        hidden = self.conv2(F.silu(self.conv1(F.silu(features))))
        total: Tensor = self.skip(features) + hidden
        return total


@models.register
class ConvVAE(VectorVAE):
    """A VAE of small images: z ~ N(0, I), 2x − 1 | z ~ N(μ(z), σ(z)²) with a σ for every pixel.

    Encoder and decoder are residual blocks at full, half and quarter resolution around one vector
    of latents.

    Args:
        image_shape: Channels, height and width; height and width are multiples of 4.
        latent_dim: Dimension of z.
        channels: Width at full resolution; doubled at half resolution and kept below.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 8, 8),
        latent_dim: int = 16,
        channels: int = 32,
    ) -> None:
        super().__init__([[latent_dim], image_shape])
        colours, height, width = image_shape
        if height % 4 or width % 4:
            raise UsageError(
                f"ConvVAE needs image sides that are multiples of 4, not {image_shape}"
            )
        wide, low = 2 * channels, (2 * channels, height // 4, width // 4)
        size = low[0] * low[1] * low[2]
        self.encoder = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1),
            ResidualBlock(channels, wide),
            nn.AvgPool2d(2),
            ResidualBlock(wide, wide),
            nn.AvgPool2d(2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(size, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, size),
            nn.Unflatten(1, low),
            ResidualBlock(wide, wide),
            nn.Upsample(scale_factor=2),
            ResidualBlock(wide, wide),
            nn.Upsample(scale_factor=2),
            ResidualBlock(wide, channels),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * colours, 3, padding=1),
        )

    def posterior(self, image: Tensor) -> DiagonalNormal:
        """q(z|x) of images ``(B, C, H, W)`` in [0, 1]."""
        return DiagonalNormal.from_raw(self.encoder(2 * image - 1))

    def likelihood(self, z: Tensor) -> GaussianPixels:
        """p(x|z) of latents ``(B, latent_dim)``."""
        return GaussianPixels.from_raw(self.decoder(z))


@models.register
class ConvEnergy(Energy):
    """An energy of small images: residual blocks, mean over positions, one linear layer.

    Args:
        image_channels: Colours of an image.
        channels: Width at full resolution; doubled at half resolution and kept below.
        num_scales: Resolutions, each half the one before.
        patch_size: Side of the squares of pixels that become the channels of one position; 2 makes
            the network four times cheaper.

    Raises:
        UsageError: If `patch_size` is not positive.
    """

    def __init__(
        self,
        image_channels: int = 1,
        channels: int = 32,
        num_scales: int = 2,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        if patch_size < 1:
            raise UsageError(f"patch_size is {patch_size}, but at least 1 is due")
        blocks: list[nn.Module] = [nn.PixelUnshuffle(patch_size)] if patch_size > 1 else []
        blocks.append(nn.Conv2d(image_channels * patch_size**2, channels, 3, padding=1))
        width = channels
        for scale in range(num_scales):
            pool = [nn.AvgPool2d(2)] if scale else []
            blocks += [*pool, ResidualBlock(width, 2 * channels)]
            width = 2 * channels
        self.net = nn.Sequential(*blocks, nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear = nn.Linear(width, 1)
        self.spectral = SpectralPenalty(weight_matrices(self.net))

    def forward(self, image: Tensor) -> Tensor:
        """Energies ``(B,)`` of images ``(B, C, H, W)`` in [0, 1]."""
        return float32_linear(self.linear, self.net(2 * image - 1)).squeeze(1)

    def penalty(self) -> Tensor:
        """Sum of the convolutions' spectral norms."""
        norms: Tensor = self.spectral(weight_matrices(self.net))
        return norms
