"""The handwritten digits."""

import sys

import pytest
import torch

from vaebm.datamodules import DigitsDataModule
from vaebm.errors import UsageError

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data() -> DigitsDataModule:
    return DigitsDataModule()


def test_parts_have_their_sizes(data: DigitsDataModule) -> None:
    assert [len(part) for part in data.parts] == [1200, 200, 397]  # type: ignore[arg-type]


def test_images_are_floats_between_zero_and_one(data: DigitsDataModule) -> None:
    image, _ = data.parts.train[:]
    assert (image.dtype, image.shape[1:]) == (torch.float32, (1, 8, 8))
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)


def test_labels_are_all_ten_digits(data: DigitsDataModule) -> None:
    _, label = data.parts.test[:]
    assert sorted(set(label.tolist())) == list(range(data.num_classes))


def test_parts_are_disjoint_and_complete(data: DigitsDataModule) -> None:
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    found = torch.cat([part[:][0].flatten(1) for part in data.parts]) * 16
    assert sorted(found.tolist()) == sorted(pixels.tolist())


def test_parts_are_the_same_every_time(data: DigitsDataModule) -> None:
    torch.manual_seed(7)
    assert torch.equal(DigitsDataModule().parts.test[:][0], data.parts.test[:][0])


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'vaebm\[digits\]'"):
        DigitsDataModule().setup("fit")
