"""Street View House Numbers."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from vaebm.datamodules.base import ByteImages, ImageDataModule, Splits, datamodules
from vaebm.datamodules.files import check_md5, fetch, images_extra, require_files

HINT = "put the published files there, or set download to true"


@datamodules.register
class SVHNDataModule(ImageDataModule):
    """SVHN: 73,257 photographed house numbers to train on and 26,032 to test, 32×32 pixels.

    The test images also validate. Batches are (image ``(B, 3, 32, 32)`` in [0, 1], label ``(B,)``,
    the digit in the middle).

    Args:
        root: Folder that holds ``train_32x32.mat`` and ``test_32x32.mat``, as published.
        batch_size: Images in a batch.
        download: Fetch the files into `root` if they are not there.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing or torchvision is.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Reading Digits in Natural Images with Unsupervised Feature Learning (Netzer, Wang, Coates,
        Bissacco, Wu, Ng, 2011).
    """

    num_classes = 10

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 32,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.save_hyperparameters()
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download, if wanted."""
        if self.download:
            published = images_extra("torchvision.datasets").SVHN
            for split in ("train", "test"):
                fetch("SVHN", partial(published, self.root, split, download=True))

    def splits(self) -> Splits:
        """Read both published parts."""
        published = images_extra("torchvision.datasets").SVHN
        listed = [published.split_list[split] for split in ("train", "test")]
        sums = {name: md5 for _, name, md5 in listed}
        require_files(Path(self.root), sums, HINT)
        check_md5(Path(self.root), sums)
        train, test = (_images(published(self.root, split)) for split in ("train", "test"))
        return Splits(train, test, test)


def _images(published: Any) -> ByteImages:
    return ByteImages(
        torch.from_numpy(published.data).contiguous(), torch.from_numpy(published.labels)
    )
