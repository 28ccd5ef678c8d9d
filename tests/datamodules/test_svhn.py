"""SVHN from small files in the published format."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from vaebm.datamodules import SVHNDataModule
from vaebm.errors import DataError, UsageError

datasets = pytest.importorskip("torchvision.datasets")


@pytest.fixture
def pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write a few images as the authors do, with sums that fit them; gives ``(H, W, C, N)``."""
    generator = np.random.default_rng(0)
    found, listed = {}, {}
    for name, size in (("train", 12), ("test", 10)):
        found[name] = generator.integers(256, size=(32, 32, 3, size), dtype=np.uint8)
        label = np.arange(1, size + 1, dtype=np.uint8)[:, None] % 11  # 10 stands for the digit 0
        path = tmp_path / f"{name}_32x32.mat"
        savemat(path, {"X": found[name], "y": np.where(label == 0, 10, label)})
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        listed[name] = ["http://127.0.0.1:9/x.mat", path.name, md5]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return found


def test_every_pixel_and_label_is_that_of_the_files(
    tmp_path: Path, pixels: dict[str, np.ndarray]
) -> None:
    parts = SVHNDataModule(str(tmp_path)).parts
    for part, name in zip(parts, ("train", "test", "test"), strict=True):
        image, label = part[:]
        expected = torch.from_numpy(pixels[name]).permute(3, 2, 0, 1)
        assert torch.equal((image * 255).round().byte(), expected)
        assert label[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_memory_holds_one_byte_a_value(tmp_path: Path, pixels: dict[str, np.ndarray]) -> None:
    image = SVHNDataModule(str(tmp_path)).parts.train.tensors[0]  # type: ignore[attr-defined]
    assert image.dtype == torch.uint8
    assert image.is_contiguous()


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    message = f"^{tmp_path} lacks train_32x32.mat, test_32x32.mat: put the published files there"
    with pytest.raises(UsageError, match=message):
        SVHNDataModule(str(tmp_path)).setup("fit")


def test_damaged_files_are_named(tmp_path: Path, pixels: dict[str, np.ndarray]) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(b"not as published")
    with pytest.raises(DataError, match=f"^{tmp_path}: test_32x32.mat damaged"):
        SVHNDataModule(str(tmp_path)).setup("fit")


def test_failed_download_is_one_line(tmp_path: Path, pixels: dict[str, np.ndarray]) -> None:
    for path in tmp_path.glob("*.mat"):
        path.unlink()
    with pytest.raises(DataError, match=r"^SVHN cannot be downloaded: .*refused"):
        SVHNDataModule(str(tmp_path), download=True).prepare_data()
