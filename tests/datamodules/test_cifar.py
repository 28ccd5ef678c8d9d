"""CIFAR-10."""

from pathlib import Path

import pytest
import torch

from vaebm.datamodules import CIFAR10DataModule
from vaebm.datamodules.base import Splits
from vaebm.errors import DataError, UsageError

datasets = pytest.importorskip("torchvision.datasets")
FILES = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
FILES += ["batches.meta"]


@pytest.fixture(scope="module")
def parts(cifar10_root: str) -> Splits:
    return CIFAR10DataModule(cifar10_root).parts


def test_parts_have_their_sizes(parts: Splits) -> None:
    assert [len(part) for part in parts] == [50_000, 10_000, 10_000]  # type: ignore[arg-type]


@pytest.mark.parametrize("train", [True, False])
def test_every_pixel_and_label_is_the_published_one(
    cifar10_root: str, parts: Splits, train: bool
) -> None:
    published = datasets.CIFAR10(cifar10_root, train=train)
    part = parts.train if train else parts.test
    for start in range(0, len(published), 10_000):
        image, label = part[start : start + 10_000]
        pixels = torch.from_numpy(published.data[start : start + 10_000]).permute(0, 3, 1, 2)
        assert torch.equal((image * 255).round().byte(), pixels)
        assert label.tolist() == published.targets[start : start + 10_000]


def test_images_are_floats_between_zero_and_one(parts: Splits) -> None:
    image, label = parts.test[:1000]
    assert (image.dtype, image.shape) == (torch.float32, (1000, 3, 32, 32))
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert sorted(set(label.tolist())) == list(range(CIFAR10DataModule.num_classes))


def test_memory_holds_one_byte_a_value(parts: Splits) -> None:
    pixels = parts.train.tensors[0]  # type: ignore[attr-defined]
    assert pixels.untyped_storage().nbytes() == 50_000 * 3 * 32 * 32
    assert pixels.is_contiguous()


def test_held_out_images_are_the_last_ones_to_train_on(cifar10_root: str, parts: Splits) -> None:
    held_out = CIFAR10DataModule(cifar10_root, num_val=500).parts
    assert [len(part) for part in held_out] == [49_500, 500, 10_000]  # type: ignore[arg-type]
    for mine, theirs in zip(held_out.val[:], parts.train[49_500:], strict=True):
        assert torch.equal(mine, theirs)


def test_worker_processes_change_no_batch(cifar10_root: str, parts: Splits) -> None:
    batches = []
    for num_workers in (0, 2):
        data = CIFAR10DataModule(cifar10_root, batch_size=5000, num_workers=num_workers)
        data._splits = parts
        batches.append(list(data.train_dataloader()))
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("num_val", [-1, 50_000])
def test_impossible_number_of_held_out_images_is_refused(num_val: int) -> None:
    with pytest.raises(UsageError, match=rf"num_val is {num_val}, but must lie in \[0, 50000\)"):
        CIFAR10DataModule(num_val=num_val)


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    message = f"^{folder} lacks {', '.join(FILES)}: unpack cifar-10-python.tar.gz in the folder"
    with pytest.raises(UsageError, match=message):
        CIFAR10DataModule(str(tmp_path)).setup("fit")


def test_damaged_files_are_named(tmp_path: Path, cifar10_root: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(Path(cifar10_root) / "cifar-10-batches-py" / name)
    (folder / "data_batch_3").unlink()
    (folder / "data_batch_3").write_bytes(b"not as published")
    with pytest.raises(DataError, match=f"^{folder}: data_batch_3 damaged"):
        CIFAR10DataModule(str(tmp_path)).setup("fit")


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    with pytest.raises(DataError, match=r"^CIFAR-10 cannot be downloaded: .*refused"):
        CIFAR10DataModule(str(tmp_path), download=True).prepare_data()


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    CIFAR10DataModule(str(tmp_path)).prepare_data()
    assert not list(tmp_path.iterdir())


def test_files_that_are_there_are_not_downloaded(
    cifar10_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    CIFAR10DataModule(cifar10_root, download=True).prepare_data()
