"""Any folder or zip file of images: what is found, how it is cut, everything that can be wrong."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.datamodules.pictures import encoded, picture
from vaebm.datamodules import ImageFolderDataModule
from vaebm.datamodules.crops import centre_crop
from vaebm.datamodules.encoded_images import to_tensor
from vaebm.errors import DataError, UsageError

Pack = Callable[[dict[str, bytes]], Path]


@pytest.fixture(params=["folder", "zip"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Writes files into a folder or a zip file."""

    def folder(files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "photos"

    def archive(files: dict[str, bytes]) -> Path:
        with ZipFile(tmp_path / "photos.zip", "w") as file:
            for name, data in files.items():
                file.writestr(name, data)
        return tmp_path / "photos.zip"

    return folder if request.param == "folder" else archive


def pngs(*names: str, width: int = 20, height: int = 16) -> dict[str, bytes]:
    """Different pictures under some names."""
    return {name: encoded(picture(width, height, seed), "PNG") for seed, name in enumerate(names)}


def images(part: object) -> list[torch.Tensor]:
    """All images of a part."""
    return [part[index][0] for index in range(len(part))]  # type: ignore[index,arg-type]


def cut(seed: int, side: int = 16) -> torch.Tensor:
    """The middle of the picture that `pngs` made of a seed."""
    return to_tensor(centre_crop(picture(20, 16, seed), 0, side=side))


def test_parts_are_the_folders_of_their_names(pack: Pack) -> None:
    root = pack(pngs("train/cats/1.png", "train/2.png", "val/1.png", "test/1.png", "other/1.png"))
    parts = ImageFolderDataModule(str(root), image_size=16).parts
    found = [images(part) for part in parts]
    # In the order of the paths: "2.png" comes before "cats/1.png".
    for part, seeds in zip(found, [[1, 0], [2], [3]], strict=True):
        assert len(part) == len(seeds)
        assert all(torch.equal(image, cut(seed)) for image, seed in zip(part, seeds, strict=True))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_one_part_besides_the_training_images_does_for_both(pack: Pack, name: str) -> None:
    root = pack(pngs("train/1.png", f"{name}/1.png"))
    parts = ImageFolderDataModule(str(root), image_size=16).parts
    assert torch.equal(parts.val[0][0], cut(1))
    assert torch.equal(parts.test[0][0], cut(1))


def test_folder_around_everything_does_not_count(pack: Pack) -> None:
    root = pack(pngs("photos/train/1.png", "photos/train/2.png", "photos/test/1.png"))
    parts = ImageFolderDataModule(str(root), image_size=16).parts
    assert [len(part) for part in parts] == [2, 1, 1]  # type: ignore[arg-type]


def test_images_are_held_out_where_there_are_no_parts(pack: Pack) -> None:
    root = pack(pngs(*(f"{index}.png" for index in range(20))))
    parts = ImageFolderDataModule(str(root), image_size=16, held_out=0.25).parts
    assert [len(part) for part in parts] == [15, 5, 5]  # type: ignore[arg-type]
    every = {image.numpy().tobytes() for part in parts for image in images(part)}
    assert len(every) == 20
    again = ImageFolderDataModule(str(root), image_size=16, held_out=0.25).parts
    other = ImageFolderDataModule(str(root), image_size=16, held_out=0.25, data_seed=1).parts
    mine, same, different = (torch.stack(images(part.test)) for part in (parts, again, other))
    assert torch.equal(mine, same)
    assert not torch.equal(mine, different)


def test_what_is_no_image_is_left_alone(pack: Pack) -> None:
    junk = {"train/notes.txt": b"x", "__MACOSX/train/._1.png": b"x", "train/.2.png": b"x"}
    root = pack({**pngs("train/1.png", "test/1.PNG"), **junk})
    parts = ImageFolderDataModule(str(root), image_size=16).parts
    assert [len(part) for part in parts] == [1, 1, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_kind_of_pixel_becomes_colours_or_grey(tmp_path: Path, mode: str, grey: bool) -> None:
    source = picture(16, 16).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"1.{kind.lower()}").write_bytes(encoded(source, kind))
    parts = ImageFolderDataModule(str(tmp_path), image_size=16, grey=grey).parts
    expected = np.array(source.convert("L" if grey else "RGB")).reshape(16, 16, -1)
    assert parts.train[0][0].shape == (1 if grey else 3, 16, 16)
    assert torch.equal(
        (parts.train[0][0] * 255).round().byte(), torch.from_numpy(expected).permute(2, 0, 1)
    )


@pytest.mark.parametrize("pixels", [np.uint16, np.float32, np.int32])
def test_pixels_of_more_than_8_bits_are_refused(tmp_path: Path, pixels: type) -> None:
    image = Image.fromarray(np.full((16, 16), 300, pixels))
    (tmp_path / "a.tiff").write_bytes(encoded(image, "TIFF"))
    (tmp_path / "b.tiff").write_bytes(encoded(image, "TIFF"))
    part = ImageFolderDataModule(str(tmp_path), image_size=16).parts.train
    with pytest.raises(DataError, match=r"\.tiff cannot be used: it has more than 8 bits a pixel"):
        part[0]


@pytest.mark.parametrize("size", [(40, 16), (16, 40), (7, 9), (16, 16), (300, 200)])
def test_images_of_any_size_become_squares(tmp_path: Path, size: tuple[int, int]) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(picture(*size), "PNG"))
    for crop in ("centre", "random"):
        data = ImageFolderDataModule(str(tmp_path), image_size=16, crop=crop)  # type: ignore[arg-type]
        assert data.parts.train[0][0].shape == (3, 16, 16)


def test_random_places_differ_from_epoch_to_epoch(tmp_path: Path) -> None:
    for name in ("train/a.png", "test/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded(picture(200, 16), "PNG"))
    data = ImageFolderDataModule(str(tmp_path), 16, 1, crop="random", flip=False)
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        [[image]] = loader
        epochs.append(image)
    assert not torch.equal(*epochs)
    assert torch.equal(data.parts.test[0][0], data.parts.test[0][0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrupt_image_is_named(pack: Pack, num_workers: int) -> None:
    files = pngs("train/1.png", "train/2.png", "test/1.png")
    files["train/2.png"] = files["train/2.png"][:300]
    data = ImageFolderDataModule(str(pack(files)), 16, 2, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^[^\n]*train/2\.png[^\n]* cannot be used: [^\n]+$"):
        list(data.train_dataloader())


def test_corrupt_images_are_left_out_with_a_warning_if_asked_for(pack: Pack) -> None:
    files = pngs(*(f"train/{index}.png" for index in range(6)), "test/1.png")
    files["train/2.png"] = files["train/2.png"][:300]
    files["train/4.png"] = b"no image"
    data = ImageFolderDataModule(str(pack(files)), image_size=16, corrupt="skip")
    with pytest.warns(
        UserWarning, match=r"^2 of 6 images are left out: .*train/2\.png.*; .*4\.png"
    ):
        train = data.parts.train
    for image, seed in zip(images(train), [0, 1, 3, 5], strict=True):
        assert torch.equal(image, cut(seed))


def test_damage_within_a_zip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with ZipFile(path, "w") as file:
        for name, data in pngs("train/1.png", "test/1.png").items():
            file.writestr(name, data)
    whole = bytearray(path.read_bytes())
    whole[100] ^= 255  # within the first image
    path.write_bytes(whole)
    part = ImageFolderDataModule(str(path), image_size=16).parts.train
    with pytest.raises(DataError, match=f"^train/1.png in {path} cannot be used: Bad CRC-32"):
        part[0]


def test_worker_processes_read_what_the_main_one_reads(pack: Pack) -> None:
    names = [f"train/{index}.png" for index in range(40)]
    root = str(pack(pngs(*names, "test/1.png")))
    alone = ImageFolderDataModule(root, 16, 4)
    alone.parts.train[0]  # opens the zip file here, before the processes are made
    workers = ImageFolderDataModule(root, 16, 4, num_workers=2)
    workers._splits = alone.parts
    for [mine], [theirs] in zip(alone.train_dataloader(), workers.train_dataloader(), strict=True):
        assert torch.equal(mine, theirs)


def test_data_set_travels_to_a_process_that_is_no_fork(pack: Pack) -> None:
    part = ImageFolderDataModule(str(pack(pngs("train/1.png", "test/1.png"))), 16).parts.train
    part[0]
    assert torch.equal(pickle.loads(pickle.dumps(part))[0][0], part[0][0])


def test_links_are_followed_and_none_twice(tmp_path: Path) -> None:
    for name, data in pngs(*(f"elsewhere/{index}.png" for index in range(3))).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    root = tmp_path / "photos"
    root.mkdir()
    for part in ("Train", "val"):
        (root / part).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    parts = ImageFolderDataModule(str(root), image_size=16).parts
    assert [len(part) for part in parts] == [3, 3, 3]  # type: ignore[arg-type]


@pytest.mark.parametrize("place", range(30, 700, 13))
def test_any_damage_of_a_zip_file_is_a_data_error(tmp_path: Path, place: int) -> None:
    path = tmp_path / "photos.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as file:
        for name in ("train/1.png", "test/1.png"):
            file.writestr(name, pngs(name, width=6, height=6)[name])
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] ^= 255
    path.write_bytes(whole)
    with suppress(DataError, UsageError):  # nothing else may come of it
        for part in ImageFolderDataModule(str(path), image_size=4).parts:
            part[0]


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=f"^{tmp_path / 'no'} does not exist: name a folder or zip"
    ):
        ImageFolderDataModule(str(tmp_path / "no")).setup("fit")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{tmp_path} holds no images, i\.e\. no files \.bmp"):
        ImageFolderDataModule(str(tmp_path)).setup("fit")


def test_file_that_is_no_zip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    path.write_bytes(b"not zipped")
    with pytest.raises(DataError, match=f"^{path} cannot be read as a zip file: File is not a zip"):
        ImageFolderDataModule(str(path)).setup("fit")


def test_training_images_alone_are_refused(pack: Pack) -> None:
    with pytest.raises(UsageError, match="has images to train on, but no folder val or test"):
        ImageFolderDataModule(str(pack(pngs("train/1.png", "x/1.png")))).setup("fit")


def test_single_image_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(encoded(picture(16, 16), "PNG"))
    with pytest.raises(DataError, match="train part of ImageFolderDataModule is empty"):
        ImageFolderDataModule(str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    "options",
    [{"image_size": 0}, {"held_out": 0.0}, {"held_out": 1.0}, {"crop": "x"}, {"corrupt": "x"}],
)
def test_argument_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        ImageFolderDataModule(**options)  # type: ignore[arg-type]
