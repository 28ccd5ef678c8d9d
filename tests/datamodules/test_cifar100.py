"""CIFAR-100 from small files in the published format."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vaebm.datamodules import CIFAR100DataModule
from vaebm.errors import DataError, UsageError

datasets = pytest.importorskip("torchvision.datasets")


@pytest.fixture
def pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Write a few images as the authors do, with sums that fit them; gives rows of bytes."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = {
        name: generator.integers(256, size=(size, 3072), dtype=np.uint8)
        for name, size in (("train", 6), ("test", 4))
    }
    labels = [f"class {index}" for index in range(100)]
    contents = {"meta": {"fine_label_names": labels}} | {
        name: {
            "data": data,
            "fine_labels": [99 - index for index in range(len(data))],
            "coarse_labels": [0] * len(data),
        }
        for name, data in rows.items()
    }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    published = datasets.CIFAR100
    monkeypatch.setattr(published, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(published, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": sums["meta"]})
    monkeypatch.setattr("vaebm.datamodules.cifar.NUM_TRAIN", 6)
    return rows


def test_every_pixel_and_label_is_that_of_the_files(
    tmp_path: Path, pixels: dict[str, np.ndarray]
) -> None:
    parts = CIFAR100DataModule(str(tmp_path), num_val=2).parts
    for part, rows, first in zip(
        parts, (pixels["train"][:4], pixels["train"][4:], pixels["test"]), (0, 4, 0), strict=True
    ):
        image, label = part[:]
        expected = torch.from_numpy(rows).view(-1, 3, 32, 32)
        assert torch.equal((image * 255).round().byte(), expected)
        assert label.tolist() == [99 - first - index for index in range(len(rows))]


def test_it_has_a_hundred_classes() -> None:
    assert CIFAR100DataModule.num_classes == 100


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    message = f"^{folder} lacks train, test, meta: unpack cifar-100-python.tar.gz in the folder"
    with pytest.raises(UsageError, match=message):
        CIFAR100DataModule(str(tmp_path)).setup("fit")


def test_damaged_files_are_named(tmp_path: Path, pixels: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "cifar-100-python"
    (folder / "test").write_bytes(b"not as published")
    with pytest.raises(DataError, match=f"^{folder}: test damaged"):
        CIFAR100DataModule(str(tmp_path)).setup("fit")


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match=r"^CIFAR-100 cannot be downloaded: .*refused"):
        CIFAR100DataModule(str(tmp_path), download=True).prepare_data()
