"""Squares of one size out of pictures of any."""

import torch
from PIL import Image

from vaebm.noise import Purpose, generator_for


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Make the shorter side `side` pixels long and keep the proportions."""
    width, height = image.size
    shorter = min(width, height)
    size = (side * width // shorter, side * height // shorter)
    return image.resize(size, Image.Resampling.BILINEAR)


def centre_crop(image: Image.Image, number: int, *, side: int) -> Image.Image:
    """Shrink and cut out the middle.

    Args:
        image: A picture.
        number: Number of the item, of no use here.
        side: Pixels of a side.
    """
    small = shrink(image, side)
    left, top = ((length - side) / 2 for length in small.size)
    return _cut(small, round(left), round(top), side)


def random_crop(image: Image.Image, number: int, *, side: int, seed: int) -> Image.Image:
    """Shrink and cut out a square at a place that is a function of (seed, number).

    Args:
        image: A picture.
        number: Number of the item, which may count on from epoch to epoch.
        side: Pixels of a side.
        seed: Seed of the places.
    """
    small = shrink(image, side)
    generator = generator_for(Purpose.ITEMS, seed, number)
    left, top = (
        int(torch.randint(length - side + 1, (), generator=generator)) for length in small.size
    )
    return _cut(small, left, top, side)


def _cut(image: Image.Image, left: int, top: int, side: int) -> Image.Image:
    return image.crop((left, top, left + side, top + side))
