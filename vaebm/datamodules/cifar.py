"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any

import torch

from vaebm.datamodules.base import ByteImages, Splits, datamodules
from vaebm.datamodules.files import check_md5, fetch, images_extra, require_files
from vaebm.datamodules.photos import PhotoDataModule
from vaebm.errors import UsageError

NUM_TRAIN = 50_000


class CIFARDataModule(PhotoDataModule):
    """Base of both sets: 50,000 photographs to train on and 10,000 to test, 32×32 pixels.

    There is no third part: as in the paper, the test images also validate, unless `num_val` holds
    out training images for that. Batches are (image ``(B, 3, 32, 32)`` in [0, 1], label ``(B,)``).

    Args:
        root: Folder that holds the published folder.
        batch_size: Images in a batch.
        num_val: Training images to hold out for validation, the last ones, in [0, 50000); 0
            validates on the test images.
        flip: Mirror training images at random.
        download: Fetch the files into `root` if they are not there.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Attributes:
        title: Name of the set.
        num_classes: Number of classes.
    """

    title: str
    num_classes: int

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 32,
        num_val: int = 0,
        flip: bool = True,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root, batch_size, flip, num_workers)
        if not 0 <= num_val < NUM_TRAIN:
            raise UsageError(f"num_val is {num_val}, but must lie in [0, {NUM_TRAIN})")
        self.save_hyperparameters()
        self.num_val = num_val
        self.download = download

    @property
    def published(self) -> Any:
        """The set's class in torchvision."""
        return getattr(images_extra("torchvision.datasets"), self.title.replace("-", ""))

    def prepare_data(self) -> None:
        """Download, if wanted."""
        if self.download:
            published = self.published
            fetch(self.title, lambda: published(self.root, train=False, download=True))

    def splits(self) -> Splits:
        """Read both published parts."""
        published = self.published
        sums = dict(published.train_list + published.test_list)
        sums[published.meta["filename"]] = published.meta["md5"]
        folder = Path(self.root) / published.base_folder
        hint = f"unpack {published.filename} in the folder above, or set download to true"
        require_files(folder, sums, hint)
        check_md5(folder, sums)
        image, label = _tensors(published(self.root, train=True))
        test = ByteImages(*_tensors(published(self.root, train=False)))
        cut = NUM_TRAIN - self.num_val
        val = ByteImages(image[cut:], label[cut:]) if self.num_val else test
        return Splits(ByteImages(image[:cut], label[:cut]), val, test)


@datamodules.register
class CIFAR10DataModule(CIFARDataModule):
    """CIFAR-10: 50,000 photographs to train on and 10,000 to test, 32×32 pixels, ten classes.

    There is no third part: as in the paper, the test images also validate, unless `num_val` holds
    out training images for that. Batches are (image ``(B, 3, 32, 32)`` in [0, 1], label ``(B,)``).
    They are read from ``root/cifar-10-batches-py``, as published.

    Raises:
        UsageError: If `num_val` is out of range, files are missing or torchvision is.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
    """

    title = "CIFAR-10"
    num_classes = 10


@datamodules.register
class CIFAR100DataModule(CIFARDataModule):
    """CIFAR-100: like CIFAR-10, other photographs of a hundred other classes.

    They are read from ``root/cifar-100-python``, as published.

    Raises:
        UsageError: If `num_val` is out of range, files are missing or torchvision is.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009).
    """

    title = "CIFAR-100"
    num_classes = 100


def _tensors(published: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as bytes ``(N, 3, 32, 32)`` and labels ``(N,)``."""
    image = torch.from_numpy(published.data).permute(0, 3, 1, 2).contiguous()
    return image, torch.tensor(published.targets)
