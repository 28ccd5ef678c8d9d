"""CelebA-HQ at 256×256 pixels."""

from pathlib import Path

import torch
from torch.utils.data import Dataset

from vaebm.datamodules.base import Batch, Splits, datamodules, unit_interval
from vaebm.datamodules.lmdb_images import LMDB
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.errors import DataError

SIDE = 256
HINT = "CelebA-HQ 256 is read from train.lmdb and validation.lmdb as NVAE's scripts make them"


@datamodules.register
class CelebAHQ256DataModule(PhotoDataModule):
    """CelebA-HQ: 27,000 faces to train on, 3,000 to validate and test, 256×256 pixels.

    ``root/train.lmdb`` and ``root/validation.lmdb`` hold each image as 256·256·3 bytes (rows,
    columns, colours) by number. Batches are (image ``(B, 3, 256, 256)`` in [0, 1],).

    Args:
        root: Folder that holds the LMDB folders.
        batch_size: Images in a batch.
        flip: Mirror training images at random.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing or lmdb is.
        DataError: If files are damaged.

    References:
        Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras, Aila,
        Laine, Lehtinen, 2018).
    """

    def __init__(
        self, root: str = "data", batch_size: int = 16, flip: bool = True, num_workers: int = 0
    ) -> None:
        super().__init__(root, batch_size, flip, num_workers)
        self.save_hyperparameters()

    def splits(self) -> Splits:
        """Open both parts."""
        train, val = (
            RawImages(LMDB(Path(self.root) / f"{name}.lmdb", HINT))
            for name in ("train", "validation")
        )
        return Splits(train, val, val)


class RawImages(Dataset[Batch]):
    """Images stored as bytes (rows, columns, colours): ``(image,)`` with image ``(3, 256, 256)``.

    Args:
        files: The images' bytes.
    """

    def __init__(self, files: LMDB) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        data = self.files[index]
        due = SIDE * SIDE * 3
        if len(data) != due:
            raise DataError(f"image {index} of {self.files} has {len(data)} bytes, not {due}")
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return (unit_interval(pixels.view(SIDE, SIDE, 3).permute(2, 0, 1)),)
