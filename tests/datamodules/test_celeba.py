"""CelebA from the published folder and from LMDB folders."""

import re
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.datamodules.pictures import encoded, picture, write_lmdb
from vaebm.datamodules import CelebA64DataModule
from vaebm.errors import DataError, UsageError

PARTS = [0, 0, 0, 1, 1, 2]  # of the six images
JPEGS = [encoded(picture(178, 218, seed)) for seed in range(len(PARTS))]


def published(root: Path) -> Path:
    """Write a small CelebA as its authors lay it out."""
    folder = root / "celeba/img_align_celeba"
    folder.mkdir(parents=True)
    names = [f"{index + 1:06}.jpg" for index in range(len(PARTS))]
    for name, jpeg in zip(names, JPEGS, strict=True):
        (folder / name).write_bytes(jpeg)
    lines = [f"{name} {part}\n" for name, part in zip(names, PARTS, strict=True)]
    (root / "celeba/list_eval_partition.txt").write_text("".join(lines))
    return root


def lmdbs(root: Path) -> Path:
    """Write the same images as two LMDB folders."""
    write_lmdb(root / "train.lmdb", JPEGS[:3])
    write_lmdb(root / "validation.lmdb", JPEGS[3:5])
    return root


def sizes(data: CelebA64DataModule) -> list[int]:
    return [len(part) for part in data.parts]  # type: ignore[arg-type]


def expected(index: int) -> torch.Tensor:
    """The image by way of torchvision."""
    transforms = pytest.importorskip("torchvision.transforms")
    image = Image.open(BytesIO(JPEGS[index])).crop((15, 40, 163, 188))
    final: torch.Tensor = transforms.ToTensor()(transforms.Resize(64)(image))
    return final


def test_published_folder_has_its_three_parts(tmp_path: Path) -> None:
    assert sizes(CelebA64DataModule(str(published(tmp_path)))) == [3, 2, 1]


def test_images_are_cropped_and_resized_as_published(tmp_path: Path) -> None:
    parts = CelebA64DataModule(str(published(tmp_path))).parts
    images = [part[index][0] for part in parts for index in range(len(part))]  # type: ignore[arg-type]
    assert images[0].shape == (3, 64, 64)
    for index, image in enumerate(images):
        assert torch.equal(image, expected(index))


def test_lmdb_folders_hold_the_same_images(tmp_path: Path) -> None:
    files = CelebA64DataModule(str(published(tmp_path / "files"))).parts
    lmdb = CelebA64DataModule(str(lmdbs(tmp_path / "lmdb"))).parts
    for name, size in (("train", 3), ("val", 2)):
        mine, theirs = getattr(lmdb, name), getattr(files, name)
        assert len(mine) == size
        assert all(torch.equal(mine[i][0], theirs[i][0]) for i in range(size))


def test_lmdb_validation_images_also_test(tmp_path: Path) -> None:
    parts = CelebA64DataModule(str(lmdbs(tmp_path))).parts
    assert torch.equal(parts.test[1][0], parts.val[1][0])


def test_lmdb_test_images_are_used_where_there_are(tmp_path: Path) -> None:
    write_lmdb(lmdbs(tmp_path) / "test.lmdb", JPEGS[5:])
    assert sizes(CelebA64DataModule(str(tmp_path))) == [3, 2, 1]


def test_lmdb_folders_come_before_the_published_one(tmp_path: Path) -> None:
    write_lmdb(published(tmp_path) / "train.lmdb", JPEGS[:2])
    write_lmdb(tmp_path / "validation.lmdb", JPEGS[2:3])
    assert sizes(CelebA64DataModule(str(tmp_path))) == [2, 1, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_images_alone(tmp_path: Path, num_workers: int) -> None:
    data = CelebA64DataModule(str(lmdbs(tmp_path)), batch_size=2, num_workers=num_workers)
    [[image]] = data.train_dataloader()
    assert (image.dtype, image.shape) == (torch.float32, (2, 3, 64, 64))
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_nothing_there_names_both_places(tmp_path: Path) -> None:
    message = (
        f"^{tmp_path / 'celeba'} lacks img_align_celeba, list_eval_partition.txt: put the published"
        " files there, or train.lmdb and validation.lmdb into the folder above, or set download"
    )
    with pytest.raises(UsageError, match=message):
        CelebA64DataModule(str(tmp_path)).setup("fit")


def test_missing_validation_lmdb_is_named(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "train.lmdb", JPEGS)
    with pytest.raises(UsageError, match=r"validation\.lmdb lacks data\.mdb"):
        CelebA64DataModule(str(tmp_path)).setup("fit")


@pytest.mark.parametrize("line", ["", "000002.jpg", "000002.jpg 3", "000002.jpg 0 0"])
def test_list_that_makes_no_sense_is_refused(tmp_path: Path, line: str) -> None:
    path = published(tmp_path) / "celeba/list_eval_partition.txt"
    path.write_text(f"000001.jpg 0\n{line}\n")
    with pytest.raises(DataError, match=f"^{path}, line 2: not a file and 0, 1 or 2"):
        CelebA64DataModule(str(tmp_path)).setup("fit")


def test_listed_images_that_are_not_there_are_refused(tmp_path: Path) -> None:
    folder = published(tmp_path) / "celeba/img_align_celeba"
    for name in ("000002.jpg", "000005.jpg"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=f"^{folder} lacks 2 images, the first is 000002.jpg"):
        CelebA64DataModule(str(tmp_path)).setup("fit")


def test_part_without_images_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path) / "celeba/list_eval_partition.txt"
    path.write_text("000001.jpg 0\n000002.jpg 1\n")
    with pytest.raises(DataError, match="test part of CelebA64DataModule is empty"):
        CelebA64DataModule(str(tmp_path)).setup("fit")


def test_image_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "train.lmdb", [*JPEGS, encoded(picture(64, 64))])
    write_lmdb(tmp_path / "validation.lmdb", JPEGS)
    message = f"image 6 of {path} cannot be used: its size is (64, 64), that of CelebA's"
    with pytest.raises(DataError, match=re.escape(message)):
        CelebA64DataModule(str(tmp_path)).parts.train[6]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_image_is_named_also_from_a_worker(tmp_path: Path, num_workers: int) -> None:
    path = write_lmdb(tmp_path / "train.lmdb", [*JPEGS[:5], JPEGS[5][:900]])
    write_lmdb(tmp_path / "validation.lmdb", JPEGS)
    data = CelebA64DataModule(str(tmp_path), batch_size=2, num_workers=num_workers)
    with pytest.raises(DataError, match=f"^image 5 of {path} cannot be used: [^\n]*$"):
        list(data.train_dataloader())


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torchvision.datasets.celeba")

    def offline(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(module, "download_file_from_google_drive", offline)
    with pytest.raises(DataError, match=r"^CelebA cannot be downloaded: no network$"):
        CelebA64DataModule(str(tmp_path), download=True).prepare_data()


def test_nothing_is_downloaded_where_an_lmdb_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaebm.datamodules.celeba.fetch", pytest.fail)
    CelebA64DataModule(str(lmdbs(tmp_path)), download=True).prepare_data()
