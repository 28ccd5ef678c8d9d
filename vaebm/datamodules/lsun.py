"""LSUN churches at 64×64 pixels."""

from functools import partial
from pathlib import Path

from vaebm.datamodules.base import Splits, datamodules
from vaebm.datamodules.crops import centre_crop, random_crop
from vaebm.datamodules.encoded_images import EncodedImages
from vaebm.datamodules.lmdb_images import LMDB
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.noise import run_seed

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
        centred = EncodedImages(val, partial(centre_crop, side=SIDE))
        cropped = EncodedImages(train, partial(random_crop, side=SIDE, seed=run_seed()))
        return Splits(cropped, centred, centred)
