"""Pictures: how values become bytes."""

import pytest
import torch

from vaebm.plotting import stretched, to_uint8


def test_stretched_images_span_the_unit_interval() -> None:
    images = 3 * torch.randn(5, 3, 4, 4) + 1
    rows = stretched(images).flatten(1)
    torch.testing.assert_close(rows.amin(1), torch.zeros(5))
    torch.testing.assert_close(rows.amax(1), torch.ones(5))


def test_stretching_is_one_affine_map_for_all_colours_of_an_image() -> None:
    image = torch.tensor([[-0.5, 0.0], [0.5, 1.0], [1.5, 0.25]]).view(1, 3, 1, 2)
    expected = torch.tensor([[0.0, 0.25], [0.5, 0.75], [1.0, 0.375]]).view(1, 3, 1, 2)
    torch.testing.assert_close(stretched(image), expected)


def test_stretching_an_image_does_not_depend_on_the_others() -> None:
    images = torch.randn(4, 1, 3, 3)
    assert torch.equal(stretched(images)[2:3], stretched(images[2:3]))


@pytest.mark.parametrize("value", [-2.0, 0.0, 0.7])
def test_stretched_image_without_contrast_is_black(value: float) -> None:
    images = torch.stack([torch.full((3, 4, 4), value), torch.rand(3, 4, 4)])
    assert (stretched(images)[0] == 0).all()
    pixels = to_uint8(stretched(images))
    assert pixels[0].max() == 0
    assert (pixels[1].min(), pixels[1].max()) == (0, 255)
