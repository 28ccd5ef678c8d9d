"""The paper's energy networks, as one residual network."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaebm.distributions import at_least_float32
from vaebm.errors import UsageError
from vaebm.models.base import Energy, models
from vaebm.models.data_init import data_dependent_init
from vaebm.models.layers import SpectralPenalty, float32_linear, weight_matrices, wn_conv


class Layout(NamedTuple):
    """The blocks of a residual energy.

    Attributes:
        multipliers: Width of each block, in multiples of the first convolution's.
        halvings: Numbers of the blocks that end with a 2×2 average pooling.
    """

    multipliers: tuple[int, ...]
    halvings: tuple[int, ...]


LAYOUTS = {
    "mnist": Layout((1, 1, 2, 2), (0, 2)),
    "cifar32": Layout((1, 1, 2, 2, 2, 2), (0, 2, 4)),
    "celeba64": Layout((1, 1, 2, 2, 2, 4, 4, 4), (0, 2, 4, 6)),
    "lsun64": Layout((1, 1, 2, 2, 2, 2, 4, 4, 4, 4), (0, 2, 5, 8)),
    "celeba256": Layout((1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8), (0, 2, 4, 6, 8, 10)),
}
"""The networks of the paper; 128 channels for ``cifar32``, 64 for the others."""


def scaled_silu(x: Tensor) -> Tensor:
    """a(x) = x σ(x) / 1.1, whose slope is at most 1."""
    return F.silu(x) / 1.1


class EnergyBlock(nn.Module):
    """a(pool(conv₂(a(conv₁(x))) + skip(x))), all convolutions weight-normalised.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        halve: End with a 2×2 average pooling. Such a block has a convolution on its skip, as one
            that changes the width has.
    """

    def __init__(self, channels_in: int, channels_out: int, *, halve: bool) -> None:
        super().__init__()
        self.conv1 = wn_conv(channels_in, channels_out, 3)
        self.conv2 = wn_conv(channels_out, channels_out, 3)
        plain = channels_in == channels_out and not halve
        self.skip = nn.Identity() if plain else wn_conv(channels_in, channels_out, bias=False)
        self.halve = halve

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to features of the new width and, if halved, size."""
        total = self.conv2(scaled_silu(self.conv1(features))) + self.skip(features)
        return scaled_silu(F.avg_pool2d(total, 2) if self.halve else total)


@models.register
class ResidualEnergy(Energy):
    """The paper's energy: a weight-normalised residual network, summed over positions.

    E(x) = w · Σ_positions f(x) + b, where f is a convolution and residual blocks with the
    activation x σ(x) / 1.1, without any normalisation of activations. The layers of the published
    networks are in `LAYOUTS`: ``cifar32``, which the defaults are, ``celeba64``, ``lsun64``,
    ``celeba256`` and ``mnist``.

    A new network is scaled by data before it is trained (`initialise`), so that each convolution's
    output has mean 0 and standard deviation 0.2 and the first landscape is flat.

    Args:
        image_channels: Colours of an image.
        channels: Width of the first convolution; 128 for CIFAR-10, 64 for larger images.
        multipliers: Width of each block, in multiples of `channels`.
        halvings: Numbers of the blocks, from 0, that halve the image with a 2×2 average pooling.

    Raises:
        UsageError: If a block to halve does not exist, or a number is not positive.

    References:
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), Appendix E.
    """

    initialised: Tensor

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = LAYOUTS["cifar32"].multipliers,
        halvings: Collection[int] = LAYOUTS["cifar32"].halvings,
    ) -> None:
        super().__init__()
        if not multipliers or min(image_channels, channels, *multipliers) < 1:
            raise UsageError("ResidualEnergy needs channels and multipliers ≥ 1")
        if not set(halvings) <= set(range(len(multipliers))):
            raise UsageError(
                f"halvings are {list(halvings)}, but there are blocks 0 to {len(multipliers) - 1}"
            )
        self.conv1 = wn_conv(image_channels, channels, 3)
        widths = [channels, *(channels * factor for factor in multipliers)]
        self.blocks = nn.Sequential(
            *(
                EnergyBlock(widths[i], widths[i + 1], halve=i in halvings)
                for i in range(len(multipliers))
            )
        )
        self.linear = nn.Linear(widths[-1], 1)
        self.spectral = SpectralPenalty(self._matrices())
        self.stride = 2 ** len(set(halvings))
        self.register_buffer("initialised", torch.tensor(False))
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """Energies ``(B,)`` of images ``(B, C, H, W)`` in [0, 1], H and W multiples of the stride.

        Raises:
            ValueError: If the image cannot be halved that often.
        """
        if image.shape[-1] % self.stride or image.shape[-2] % self.stride:
            raise ValueError(
                f"image sides of {tuple(image.shape[-2:])} are no multiples of {self.stride}"
            )
        features = self.blocks(scaled_silu(self.conv1(image)))
        return float32_linear(self.linear, at_least_float32(features).sum((2, 3))).squeeze(1)

    def penalty(self) -> Tensor:
        """Sum of the convolutions' spectral norms."""
        norms: Tensor = self.spectral(self._matrices())
        return norms

    def _matrices(self) -> dict[str, Tensor]:
        return weight_matrices(self, nn.Conv2d)

    @property
    def needs_data(self) -> bool:
        """Whether the network is as new: neither initialised by data nor loaded."""
        return not self.initialised

    def initialise(self, image: Tensor) -> None:
        """Scale a new network by data; see `data_dependent_init`."""
        data_dependent_init(self, image)
        self.initialised.fill_(True)
