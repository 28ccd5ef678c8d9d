"""Squares out of pictures, in the middle and at random places."""

import pytest
import torch

from tests.datamodules.pictures import picture
from vaebm.datamodules.crops import centre_crop, random_crop, shrink
from vaebm.datamodules.encoded_images import to_tensor

SIZES = [(341, 256), (256, 256), (256, 455), (300, 257), (65, 64), (64, 129), (30, 50)]


@pytest.mark.parametrize("size", SIZES)
def test_middle_is_that_of_torchvision(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = picture(*size)
    expected = transforms.CenterCrop(64)(transforms.Resize(64)(image))
    assert centre_crop(image, 0, side=64).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", SIZES)
def test_random_place_lies_within_the_image(size: tuple[int, int]) -> None:
    small = to_tensor(shrink(picture(*size), 64))
    windows = small.unfold(1, 64, 1).unfold(2, 64, 1).flatten(1, 2).transpose(0, 1)
    for number in range(5):
        crop = to_tensor(random_crop(picture(*size), number, side=64, seed=1))
        assert any(torch.equal(crop, window) for window in windows)


def test_all_random_places_are_equally_likely() -> None:
    wide = picture(67, 64)  # four places
    places = [to_tensor(wide.crop((left, 0, left + 64, 64))) for left in range(4)]
    crops = [to_tensor(random_crop(wide, number, side=64, seed=1)) for number in range(800)]
    counts = [sum(torch.equal(crop, place) for crop in crops) for place in places]
    assert sum(counts) == 800
    assert sum((count - 200) ** 2 / 200 for count in counts) < 16.3  # χ² of 3 degrees, p = 0.001


def test_random_place_is_a_function_of_seed_and_number() -> None:
    image = picture(341, 256)
    crops = [
        random_crop(image, n, side=64, seed=s).tobytes()
        for s, n in ((1, 0), (1, 0), (2, 0), (1, 1))
    ]
    assert crops[0] == crops[1]
    assert len(set(crops)) == 3
