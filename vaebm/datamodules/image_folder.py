"""Any folder or zip file of images."""

import lzma
import os
import zlib
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch.utilities import rank_zero_warn

from vaebm.datamodules.base import Splits, datamodules
from vaebm.datamodules.crops import centre_crop, random_crop
from vaebm.datamodules.encoded_images import EncodedFiles, EncodedImages, FolderFiles, stamp_of
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.errors import DataError, UsageError
from vaebm.noise import Purpose, generator_for, run_seed

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@datamodules.register
class ImageFolderDataModule(PhotoDataModule):
    """Any folder or zip file of images: the shorter side is made S long, the longer one cut to S.

    Images are found in all folders below `root`, in the order of their paths. Folders ``train``,
    ``val`` (or ``valid``, ``validation``) and ``test`` directly in `root` are the three parts; of
    the last two one may be missing, the other then does for both. Without ``train``, images are
    held out at random to validate and test. Batches are (image ``(B, C, S, S)`` in [0, 1],).

    Args:
        root: The folder or the zip file.
        image_size: S, pixels of a side.
        batch_size: Images in a batch.
        grey: Make images grey, C = 1, instead of RGB, C = 3; transparency is dropped.
        crop: What is cut out of a training image: its ``centre``, or a ``random`` place that is a
            function of (seed, epoch, image).
        held_out: Part of the images to hold out where there are no parts, in (0, 1).
        data_seed: Seed of the choice of held-out images.
        corrupt: ``refuse`` ends the run at the first image that cannot be read; ``skip`` tries
            every image before the start and leaves out those that cannot, with a warning.
        flip: Mirror training images at random.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If `root` does not exist or holds no images, or an argument makes no sense.
        DataError: If files are damaged.
    """

    def __init__(
        self,
        root: str = "data",
        image_size: int = 64,
        batch_size: int = 32,
        grey: bool = False,
        crop: Literal["centre", "random"] = "centre",
        held_out: float = 0.1,
        data_seed: int = 0,
        corrupt: Literal["refuse", "skip"] = "refuse",
        flip: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root, batch_size, flip, num_workers)
        if image_size < 1 or not 0 < held_out < 1:
            raise UsageError("ImageFolderDataModule needs image_size ≥ 1 and held_out in (0, 1)")
        if crop not in ("centre", "random") or corrupt not in ("refuse", "skip"):
            raise UsageError("crop is 'centre' or 'random', corrupt is 'refuse' or 'skip'")
        self.save_hyperparameters()
        self.image_size = image_size
        self.mode = "L" if grey else "RGB"
        self.held_out = held_out
        self.data_seed = data_seed
        self.skip = corrupt == "skip"
        self.draws_anew = crop == "random"

    def splits(self) -> Splits:
        """Find the images of the three parts."""
        root = Path(self.root)
        names = image_names(root)
        parts = [part_of(names, folders) for folders in PARTS.values()]
        train, val, test = parts if parts[0] else self._held_out(names)
        if not (val or test):
            raise UsageError(f"{root} has images to train on, but no folder val or test")
        prepare = partial(centre_crop, side=self.image_size)
        shown = [
            EncodedImages(self._files(part), prepare, self.mode) for part in (val, test) if part
        ]
        varied = partial(random_crop, side=self.image_size, seed=run_seed())
        first = EncodedImages(self._files(train), varied if self.draws_anew else prepare, self.mode)
        return Splits(first, shown[0], shown[-1])

    def _held_out(self, names: list[str]) -> list[list[str]]:
        """Choose images to hold out, the same whatever their order on disk."""
        generator = generator_for(Purpose.DATA, self.data_seed)
        order = torch.randperm(len(names), generator=generator).tolist()
        count = max(1, round(self.held_out * len(names)))
        train, held_out = sorted(order[count:]), sorted(order[:count])
        return [[names[i] for i in train], [names[i] for i in held_out], []]

    def _files(self, names: list[str]) -> EncodedFiles:
        """The files of a part, without those that cannot be read if they are to be skipped."""
        root = Path(self.root)
        kind = FolderFiles if root.is_dir() else ZipFiles
        files = kind(root, names)
        if not self.skip:
            return files
        good = self._readable(files)
        return kind(root, [names[index] for index in good])

    def _readable(self, files: EncodedFiles) -> list[int]:
        """Try all images; warn of those that fail."""
        images = EncodedImages(files, partial(centre_crop, side=1), self.mode)
        good, bad = [], []
        for index in range(len(files)):
            try:
                images[index]
            except DataError as error:
                bad.append(str(error))
            else:
                good.append(index)
        if bad:
            shown = "; ".join(bad[:3]) + (" ..." if len(bad) > 3 else "")
            rank_zero_warn(f"{len(bad)} of {len(files)} images are left out: {shown}")
        return good


class ZipFiles(EncodedFiles):
    """Files in a zip file; every process opens it for itself.

    Args:
        path: The zip file.
        names: The files' paths within it.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = names
        self._opened: tuple[int, ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        if self._opened is None or self._opened[0] != os.getpid():  # a fork shares the position
            self._opened = (os.getpid(), ZipFile(self.path))
        try:
            return self._opened[1].read(self.names[index])
        except (BadZipFile, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(str(error) or "it is cut off") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __str__(self) -> str:
        return str(self.path)

    def place(self, index: int) -> str:
        """Both paths of a file."""
        return f"{self.names[index]} in {self.path}"

    def stamp(self) -> str:
        """Of the zip file, and which files of it these are."""
        return stamp_of(self.path) + "\n".join(self.names)


def image_names(root: Path) -> list[str]:
    """The paths of all images in a folder or zip file, sorted.

    Args:
        root: The folder or zip file.

    Raises:
        UsageError: If it does not exist or holds no images.
        DataError: If it is a file, but no zip file.
    """
    if root.is_dir():
        found = folder_names(root)
    elif root.is_file():
        found = zip_names(root)
    else:
        raise UsageError(f"{root} does not exist: name a folder or zip file of images")
    names = sorted(name for name in found if is_image(PurePosixPath(name)))
    if not names:
        raise UsageError(f"{root} holds no images, i.e. no files {' '.join(sorted(SUFFIXES))}")
    return names


def folder_names(root: Path) -> list[str]:
    """The files below a folder; links are followed, none twice."""
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        subfolders[:] = [n for n in subfolders if os.path.realpath(Path(folder, n)) not in seen]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return found


def zip_names(path: Path) -> list[str]:
    """The names in a zip file."""
    try:
        with ZipFile(path) as file:
            return file.namelist()
    except (BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}") from error


def is_image(path: PurePosixPath) -> bool:
    """Whether a path is that of an image; archives of macOS hold hidden ones that are none."""
    return path.suffix.lower() in SUFFIXES and not any(
        p.startswith((".", "__")) for p in path.parts
    )


def part_of(names: list[str], folders: tuple[str, ...]) -> list[str]:
    """The names in one of some top folders; a single folder around everything does not count.

    Args:
        names: Paths of all images.
        folders: Names that the part's folder can have.
    """
    paths = {name: PurePosixPath(name).parts for name in names}
    tops = {parts[0].lower() for parts in paths.values()}
    known = {folder for part in PARTS.values() for folder in part}
    depth = int(len(tops) == 1 and not tops & known)
    return [
        name
        for name, parts in paths.items()
        if len(parts) > depth + 1 and parts[depth].lower() in folders
    ]
