"""What the output of an image model means: which pixel likelihood, of how many bits."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from vaebm.distributions import (
    BernoulliPixels,
    GaussianPixels,
    LogisticMixturePixels,
    PixelLikelihood,
)
from vaebm.errors import UsageError
from vaebm.registry import unknown_name

PixelKind = Literal["gaussian", "logistic_mixture", "bernoulli"]


def pixels_of(kind: PixelKind, bits: int, raw: Tensor) -> PixelLikelihood:
    """p(x|z) of a network's output ``(B, outputs, H, W)``."""
    if kind == "gaussian":
        return GaussianPixels.from_raw(raw)
    if kind == "bernoulli":
        return BernoulliPixels.from_raw(raw)
    return LogisticMixturePixels.from_raw(raw, bits)


def num_outputs(likelihood: PixelKind, image_channels: int, num_mixtures: int) -> int:
    """Channels of the generator's head.

    Raises:
        UsageError: If there is no such likelihood, or it does not go with the colours.
    """
    numbers = {
        "gaussian": 2 * image_channels,
        "bernoulli": image_channels,
        "logistic_mixture": 10 * num_mixtures,
    }
    if likelihood not in numbers:
        raise UsageError(unknown_name(likelihood, numbers, "likelihoods of NVAE"))
    if likelihood == "logistic_mixture" and num_mixtures < 1:
        raise UsageError(f"num_mixtures is {num_mixtures}, but at least 1 is due")
    if likelihood == "logistic_mixture" and image_channels != 3:
        raise UsageError(f"a logistic mixture is of 3 colours, not of {image_channels}")
    return numbers[likelihood]


def quantise(image: Tensor, bits: int) -> Tensor:
    """Images of 8 bits in [0, 1] as images of fewer: floor(255 x / 2^(8−n)) / (2^n − 1).

    Images of n bits stay what they are.
    """
    return image if bits == 8 else (image * 255 / 2 ** (8 - bits)).floor() / (2**bits - 1)


def colours_and_side(image_shape: Sequence[int]) -> tuple[int, int]:
    """Colours and side of square images.

    Raises:
        UsageError: If the shape is another.
    """
    if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[1] != image_shape[2]:
        raise UsageError(f"image_shape is {list(image_shape)}, but [colours, side, side] is due")
    return image_shape[0], image_shape[1]
