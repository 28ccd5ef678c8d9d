"""A VAE of small images, made of linear layers: the fastest on a CPU."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from vaebm.distributions import DiagonalNormal, GaussianPixels
from vaebm.errors import UsageError
from vaebm.models.base import models
from vaebm.models.layers import mlp
from vaebm.models.vector import VectorVAE


@models.register
class DenseVAE(VectorVAE):
    """A VAE of small images: z ~ N(0, I), 2x − 1 | z ~ N(μ(z), σ(z)²) with a σ for every pixel.

    Encoder and decoder are stacks of linear layers.

    Args:
        image_shape: Channels, height and width.
        latent_dim: Dimension of z.
        width: Units of each hidden layer.
        depth: Hidden layers of encoder and decoder.
        min_scale: Added to every σ. Without, pixels that are black in all images get a density
            without bound, and the VAE learns little else.

    Raises:
        UsageError: If `min_scale` is negative.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 16, 16),
        latent_dim: int = 16,
        width: int = 256,
        depth: int = 2,
        min_scale: float = 0.0,
    ) -> None:
        super().__init__([[latent_dim], image_shape])
        if min_scale < 0:
            raise UsageError(f"min_scale is {min_scale}, but a scale is not negative")
        self.min_scale = min_scale
        size, hidden = prod(image_shape), [width] * depth
        colours, *sides = image_shape
        self.encoder = nn.Sequential(nn.Flatten(), mlp([size, *hidden, 2 * latent_dim]))
        self.decoder = nn.Sequential(
            mlp([latent_dim, *hidden, 2 * size]), nn.Unflatten(1, (2 * colours, *sides))
        )

    def posterior(self, image: Tensor) -> DiagonalNormal:
        """q(z|x) of images ``(B, C, H, W)`` in [0, 1]."""
        return DiagonalNormal.from_raw(self.encoder(2 * image - 1))

    def likelihood(self, z: Tensor) -> GaussianPixels:
        """p(x|z) of latents ``(B, latent_dim)``."""
        normal = DiagonalNormal.from_raw(self.decoder(z))
        return GaussianPixels(DiagonalNormal(normal.mean, normal.scale + self.min_scale))
