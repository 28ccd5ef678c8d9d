"""CelebA-HQ from LMDB folders of raw bytes."""

from pathlib import Path

import pytest
import torch

from tests.datamodules.pictures import picture, write_lmdb
from vaebm.datamodules import CelebAHQ256DataModule
from vaebm.datamodules.encoded_images import to_tensor
from vaebm.errors import DataError, UsageError

FACES = [picture(256, 256, seed) for seed in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lmdb(tmp_path / "train.lmdb", [face.tobytes() for face in FACES])
    write_lmdb(tmp_path / "validation.lmdb", [FACES[0].tobytes()])
    return tmp_path


def test_images_are_the_stored_bytes(root: Path) -> None:
    train = CelebAHQ256DataModule(str(root)).parts.train
    assert len(train) == 3  # type: ignore[arg-type]
    for index, face in enumerate(FACES):
        assert torch.equal(train[index][0], to_tensor(face))


def test_validation_images_also_test(root: Path) -> None:
    parts = CelebAHQ256DataModule(str(root)).parts
    assert [len(part) for part in parts] == [3, 1, 1]  # type: ignore[arg-type]
    assert torch.equal(parts.test[0][0], to_tensor(FACES[0]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_images_alone(root: Path, num_workers: int) -> None:
    data = CelebAHQ256DataModule(str(root), batch_size=3, num_workers=num_workers)
    [[image]] = data.train_dataloader()
    assert (image.dtype, image.shape) == (torch.float32, (3, 3, 256, 256))
    assert image.is_contiguous()
    order = list(data.train_dataloader().sampler)
    assert torch.equal(image, torch.stack([to_tensor(FACES[index]) for index in order]))


@pytest.mark.parametrize("length", [0, 64 * 64 * 3, 256 * 256 * 3 - 1])
def test_wrong_number_of_bytes_is_refused(root: Path, tmp_path: Path, length: int) -> None:
    other = tmp_path / "other"
    path = write_lmdb(other / "train.lmdb", [FACES[0].tobytes(), bytes(length)])
    write_lmdb(other / "validation.lmdb", [FACES[0].tobytes()])
    with pytest.raises(DataError, match=f"^image 1 of {path} has {length} bytes, not 196608$"):
        CelebAHQ256DataModule(str(other)).parts.train[1]


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    message = f"^{tmp_path / 'train.lmdb'} lacks data.mdb: CelebA-HQ 256 is read from train.lmdb"
    with pytest.raises(UsageError, match=message):
        CelebAHQ256DataModule(str(tmp_path)).setup("fit")


def test_empty_lmdb_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "train.lmdb", [])
    with pytest.raises(DataError, match=f"^{path} holds no images$"):
        CelebAHQ256DataModule(str(tmp_path)).setup("fit")
