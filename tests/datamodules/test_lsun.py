"""LSUN churches: sizes, crops in the middle and at random places."""

from pathlib import Path

import pytest
import torch

from tests.datamodules.pictures import encoded, picture, write_lmdb
from vaebm.datamodules import LSUNChurch64DataModule
from vaebm.datamodules.crops import centre_crop
from vaebm.datamodules.encoded_images import to_tensor
from vaebm.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six wide images and two high ones, with keys as LSUN has them."""
    for name, size, count in (("train", (341, 256), 6), ("val", (256, 400), 2)):
        keys = [f"{index:040x}" for index in range(count)]
        images = [encoded(picture(*size, seed), "PNG") for seed in range(count)]
        path = tmp_path / f"church_outdoor_{name}_lmdb"
        write_lmdb(path, dict(zip(keys, images, strict=True)))
    return tmp_path


def test_parts_have_their_sizes_and_validation_images_also_test(root: Path) -> None:
    parts = LSUNChurch64DataModule(str(root)).parts
    assert [len(part) for part in parts] == [6, 2, 2]  # type: ignore[arg-type]
    assert torch.equal(parts.val[1][0], to_tensor(centre_crop(picture(256, 400, 1), 0, side=64)))
    assert torch.equal(parts.test[1][0], parts.val[1][0])


def epochs(root: Path, num_workers: int) -> list[torch.Tensor]:
    """The training images of two epochs."""
    data = LSUNChurch64DataModule(str(root), batch_size=2, num_workers=num_workers)
    loader = data.train_dataloader()
    found = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append(torch.cat([image for [image] in loader]))
    del loader  # Lightning keeps this frame, and with it the worker processes
    return found


def test_worker_processes_change_no_crop(root: Path) -> None:
    for alone, workers in zip(epochs(root, 0), epochs(root, 2), strict=True):
        assert torch.equal(alone, workers)


def test_crops_differ_from_epoch_to_epoch(root: Path) -> None:
    first, second = ({image.numpy().tobytes() for image in epoch} for epoch in epochs(root, 0))
    assert len(first) == len(second) == 6
    assert len(first & second) <= 2


def test_crops_change_with_the_seed_of_the_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = set()
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        train = LSUNChurch64DataModule(str(root)).parts.train
        crops.add(b"".join(train[index][0].numpy().tobytes() for index in range(6)))
    assert len(crops) == 2


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "church_outdoor_train_lmdb"
    message = f"^{folder} lacks data.mdb: unpack LSUN's church_outdoor_train_lmdb.zip and"
    with pytest.raises(UsageError, match=message):
        LSUNChurch64DataModule(str(tmp_path)).setup("fit")
