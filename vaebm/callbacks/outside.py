"""Images that are not of the data: made from them, or of other data sets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for
from vaebm.stage import images_of

SYNTHETIC = ("interpolations", "noise", "constants")


def chosen_images(part: Any, count: int, seed: int) -> Tensor:
    """Some images of a part of a data set, chosen at random, since sets can be ordered by class.

    Args:
        part: The part.
        count: Number of images, or all if there are fewer.
        seed: Seed of the choice.

    Returns:
        Images, ``(N, C, H, W)``.
    """
    order = torch.randperm(len(part), generator=generator_for(Purpose.OUTSIDE, seed))
    return torch.stack([images_of(part[index]) for index in order[:count].tolist()])


def synthetic_images(kind: str, inside: Tensor, generator: Generator) -> Tensor:
    """As many images that are none of the data.

    Args:
        kind: ``interpolations``: the mean of two images; ``noise``: each value uniform in [0, 1];
            ``constants``: one colour.
        inside: Images of the data, ``(N, C, H, W)``, N ≥ 2.
        generator: Source of the choices.

    Returns:
        Images, ``(N, C, H, W)``.
    """
    if kind == "interpolations":
        order = torch.randperm(len(inside), generator=generator)
        return 0.5 * (inside[order] + inside[order.roll(1)])
    if kind == "noise":
        return torch.rand(inside.shape, generator=generator)
    colour = torch.rand(*inside.shape[:2], 1, 1, generator=generator)
    return colour.expand_as(inside).contiguous()


def fit_colours(image: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """Images as a model takes them: grey ones become RGB.

    Args:
        image: Images, ``(N, C, H, W)``.
        shape: What the model is made for, (C, H, W).
        name: Name of the data set, for the error.

    Raises:
        UsageError: If they have another size, or colours that the model does not have.
    """
    if image.shape[1] == 1:
        image = image.expand(-1, shape[0], -1, -1)
    if image.shape[1:] != tuple(shape):
        raise UsageError(
            f"images of {name} are {tuple(image.shape[1:])}, the model is made for {tuple(shape)}"
        )
    return image
