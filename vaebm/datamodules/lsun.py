"""LSUN churches at 64×64 pixels."""

from functools import partial
from pathlib import Path

import torch
from PIL import Image

from vaebm.datamodules.base import Splits, datamodules
from vaebm.datamodules.lmdb_images import LMDB, EncodedImages
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.noise import Purpose, generator_for, run_seed

SIDE = 64
HINT = "unpack LSUN's church_outdoor_train_lmdb.zip and ..._val_lmdb.zip in the folder above"


@datamodules.register
class LSUNChurch64DataModule(PhotoDataModule):
    """LSUN Church Outdoor: 126,227 photographs to train on, 300 to validate and test, 64×64 pixels.

    The shorter side is shrunk to 64; the longer one is cut to 64, in training at a random place
    that is a function of (seed, epoch, image), else in the middle. Batches are
    (image ``(B, 3, 64, 64)`` in [0, 1],).

    Args:
        root: Folder that holds ``church_outdoor_train_lmdb`` and ``church_outdoor_val_lmdb``.
        batch_size: Images in a batch.
        flip: Mirror training images at random.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing or lmdb is.
        DataError: If files are damaged.

    References:
        LSUN: Construction of a Large-Scale Image Dataset Using Deep Learning with Humans in the
        Loop (Yu, Seff, Zhang, Song, Funkhouser, Xiao, 2015).
    """

    draws_anew = True

    def __init__(
        self, root: str = "data", batch_size: int = 32, flip: bool = True, num_workers: int = 0
    ) -> None:
        super().__init__(root, batch_size, flip, num_workers)
        self.save_hyperparameters()

    def splits(self) -> Splits:
        """Open both parts."""
        train, val = (
            LMDB(Path(self.root) / f"church_outdoor_{name}_lmdb", HINT) for name in ("train", "val")
        )
        centred = EncodedImages(val, centre_crop)
        return Splits(EncodedImages(train, partial(random_crop, seed=run_seed())), centred, centred)


def shrink(image: Image.Image) -> Image.Image:
    """Make the shorter side 64 pixels long and keep the proportions."""
    width, height = image.size
    shorter = min(width, height)
    size = (SIDE * width // shorter, SIDE * height // shorter)
    return image.resize(size, Image.Resampling.BILINEAR)


def centre_crop(image: Image.Image, number: int) -> Image.Image:
    """Shrink and cut out the middle."""
    small = shrink(image)
    left, top = ((side - SIDE) / 2 for side in small.size)
    return _cut(small, round(left), round(top))


def random_crop(image: Image.Image, number: int, *, seed: int) -> Image.Image:
    """Shrink and cut out a square at a place that is a function of (seed, number)."""
    small = shrink(image)
    generator = generator_for(Purpose.ITEMS, seed, number)
    left, top = (
        int(torch.randint(side - SIDE + 1, (), generator=generator)) for side in small.size
    )
    return _cut(small, left, top)


def _cut(image: Image.Image, left: int, top: int) -> Image.Image:
    return image.crop((left, top, left + SIDE, top + SIDE))
