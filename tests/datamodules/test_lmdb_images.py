"""LMDB folders as data sets: order, processes, everything that can be wrong with a file."""

import pickle
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.datamodules.pictures import encoded, picture, write_lmdb
from vaebm.datamodules.base import ResumableDataLoader
from vaebm.datamodules.crops import centre_crop
from vaebm.datamodules.encoded_images import EncodedImages, to_tensor
from vaebm.datamodules.lmdb_images import LMDB
from vaebm.errors import DataError, UsageError

pytest.importorskip("lmdb")


def same(image: Image.Image, number: int) -> Image.Image:
    """Leave an image as it is."""
    return image


def test_decimal_keys_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    values = [str(index).encode() for index in range(101)]
    files = LMDB(write_lmdb(tmp_path / "a.lmdb", values), "")
    assert [files[index] for index in range(len(files))] == values


def test_other_keys_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    files = LMDB(write_lmdb(tmp_path / "a.lmdb", {"bb": b"2", "ba": b"1", "ca": b"3"}), "")
    assert [files[index] for index in range(len(files))] == [b"1", b"2", b"3"]


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.lmdb lacks data\.mdb: look there"):
        LMDB(tmp_path / "a.lmdb", "look there")


def test_empty_lmdb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.lmdb holds no images"):
        LMDB(write_lmdb(tmp_path / "a.lmdb", []), "")


@pytest.mark.parametrize("content", [b"", b"no LMDB" * 10_000])
def test_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read"):
        LMDB(tmp_path, "")


def test_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", [bytes(20_000)] * 20)
    whole = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"data\.mdb is cut off: it has \d+ bytes of \d+"):
        LMDB(path, "")


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", [bytes(20_000)] * 20)
    whole = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(whole[: 2 * 4096] + bytes(len(whole) - 2 * 4096))
    with pytest.raises(DataError, match=r"a\.lmdb cannot be read"):
        LMDB(path, "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_encoded_images_are_the_pictures_in_the_files(tmp_path: Path, kind: str) -> None:
    files = [encoded(picture(20, 10, seed), kind) for seed in range(12)]
    part = EncodedImages(LMDB(write_lmdb(tmp_path / "a.lmdb", files), ""), same)
    for seed in (0, 2, 11):
        expected = Image.open(BytesIO(files[seed])).convert("RGB")
        assert torch.equal(part[seed][0], to_tensor(expected))


def test_tensor_of_an_image_holds_its_colours_row_by_row() -> None:
    image = picture(5, 4)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 4, 5)
    for x, y in ((0, 0), (4, 0), (2, 3)):
        assert (tensor[:, y, x] * 255).round().tolist() == list(image.getpixel((x, y)))  # type: ignore[arg-type]


def test_grey_images_get_three_colours(tmp_path: Path) -> None:
    files = [encoded(picture(20, 10).convert("L"))]
    part = EncodedImages(LMDB(write_lmdb(tmp_path / "a.lmdb", files), ""), same)
    assert part[0][0].shape == (3, 10, 20)


@pytest.mark.parametrize("damage", ["no format", "cut off"])
def test_damaged_image_is_named(tmp_path: Path, damage: str) -> None:
    files = [encoded(picture(64, 64, seed)) for seed in range(12)]
    files[10] = b"no image" if damage == "no format" else files[10][:500]
    path = write_lmdb(tmp_path / "a.lmdb", files)
    part = EncodedImages(LMDB(path, ""), same)
    reason = "has no known format" if damage == "no format" else r"cannot be used: \w+"
    with pytest.raises(DataError, match=f"^image 10 of {path} {reason}"):
        part[10]


def test_missing_file_is_named() -> None:
    class Nothing(LMDB):
        def __init__(self) -> None:
            self.path, self.keys = Path("nowhere"), [b"0"]

        def __getitem__(self, index: int) -> bytes:
            raise FileNotFoundError("x.jpg")

    with pytest.raises(DataError, match=r"^image 0 of nowhere cannot be used: x\.jpg$"):
        EncodedImages(Nothing(), same)[0]


def test_numbers_that_count_on_reach_the_transform_and_find_their_image(tmp_path: Path) -> None:
    files = [encoded(picture(8, 8, seed), "PNG") for seed in range(3)]
    numbers = []

    def note(image: Image.Image, number: int) -> Image.Image:
        numbers.append(number)
        return image

    part = EncodedImages(LMDB(write_lmdb(tmp_path / "a.lmdb", files), ""), note)
    assert torch.equal(part[7][0], part[1][0])
    assert numbers == [7, 1]


def test_worker_processes_read_what_the_main_one_reads(tmp_path: Path) -> None:
    files = [encoded(picture(8, 8, seed), "PNG") for seed in range(6)]
    part = EncodedImages(LMDB(write_lmdb(tmp_path / "a.lmdb", files), ""), same)
    alone = [batch[0] for batch in ResumableDataLoader(part, batch_size=2)]  # opens it here first
    workers = ResumableDataLoader(part, batch_size=2, num_workers=2)
    for mine, theirs in zip(alone, workers, strict=True):
        assert torch.equal(mine, theirs[0])
    assert torch.equal(part[0][0], alone[0][0])  # and it is still open here


def test_data_set_travels_to_a_process_that_is_no_fork(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", [encoded(picture(8, 8))])
    part = EncodedImages(LMDB(path, ""), partial(centre_crop, side=8))
    part[0]
    assert torch.equal(pickle.loads(pickle.dumps(part))[0][0], part[0][0])
