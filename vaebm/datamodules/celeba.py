"""CelebA at 64×64 pixels."""

import os
from pathlib import Path

from PIL import Image

from vaebm.datamodules.base import Splits, datamodules
from vaebm.datamodules.encoded_images import EncodedImages, FolderFiles
from vaebm.datamodules.files import fetch, images_extra, require_files
from vaebm.datamodules.lmdb_images import LMDB
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.errors import DataError

PUBLISHED_SIZE = (178, 218)
BOX = (15, 40, 163, 188)  # left, top, right, bottom
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
HINT = (
    "put the published files there, or train.lmdb and validation.lmdb into the folder above, "
    "or set download to true"
)


@datamodules.register
class CelebA64DataModule(PhotoDataModule):
    """CelebA: faces, the middle 148×148 pixels of the published images shrunk to 64×64.

    162,770 images to train on, 19,867 to validate and 19,962 to test. They are read from
    ``root/train.lmdb`` and ``root/validation.lmdb``, which hold JPEG files by number, if these are
    there (then ``root/test.lmdb`` tests, or without it the validation images do), else from
    ``root/celeba/img_align_celeba`` and ``root/celeba/list_eval_partition.txt``, as published.
    Batches are (image ``(B, 3, 64, 64)`` in [0, 1],).

    Args:
        root: Folder that holds the LMDB folders or ``celeba``.
        batch_size: Images in a batch.
        flip: Mirror training images at random.
        download: Fetch the files into `root` if they are not there; needs gdown.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing, or a library.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Deep Learning Face Attributes in the Wild (Liu, Luo, Wang, Tang, 2015); box and size as in
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020).
    """

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 32,
        flip: bool = True,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root, batch_size, flip, num_workers)
        self.save_hyperparameters()
        self.download = download

    def prepare_data(self) -> None:
        """Download, if wanted."""
        if self.download and not self._has_lmdb("train"):
            published = images_extra("torchvision.datasets").CelebA
            fetch("CelebA", lambda: published(self.root, download=True))

    def _has_lmdb(self, name: str) -> bool:
        return (Path(self.root) / f"{name}.lmdb").exists()

    def splits(self) -> Splits:
        """Find the files of the three parts."""
        if not self._has_lmdb("train"):
            folder = Path(self.root) / "celeba"
            return Splits(*(EncodedImages(part, face) for part in published_parts(folder)))
        names = ("train", "validation", "test" if self._has_lmdb("test") else "validation")
        parts = (LMDB(Path(self.root) / f"{name}.lmdb", "it belongs there") for name in names)
        return Splits(*(EncodedImages(part, face) for part in parts))


def published_parts(folder: Path) -> list[FolderFiles]:
    """The training, validation and test images of the published folder.

    Args:
        folder: Folder that holds the images' folder and the list of the three parts.

    Raises:
        UsageError: If either is missing.
        DataError: If the list makes no sense or names images that are not there.
    """
    require_files(folder, (IMAGES, PARTITION), HINT)
    names: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for number, line in enumerate((folder / PARTITION).read_text().splitlines(), 1):
        match line.split():
            case [name, part] if part in names:
                names[part].append(name)
            case _:
                raise DataError(f"{folder / PARTITION}, line {number}: not a file and 0, 1 or 2")
    lost = {name for part in names.values() for name in part} - set(os.listdir(folder / IMAGES))
    if lost:
        raise DataError(f"{folder / IMAGES} lacks {len(lost)} images, the first is {min(lost)}")
    return [FolderFiles(folder / IMAGES, part) for part in names.values()]


def face(image: Image.Image, number: int) -> Image.Image:
    """Cut out the face and shrink it."""
    if image.size != PUBLISHED_SIZE:
        raise DataError(f"its size is {image.size}, that of CelebA's images is {PUBLISHED_SIZE}")
    return image.crop(BOX).resize((64, 64), Image.Resampling.BILINEAR)
