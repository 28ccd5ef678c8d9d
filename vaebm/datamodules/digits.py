"""Handwritten digits that ship with scikit-learn."""

import torch

from vaebm.datamodules.base import ImageDataModule, Splits, Tensors, datamodules
from vaebm.errors import UsageError
from vaebm.noise import generator_for


@datamodules.register
class DigitsDataModule(ImageDataModule):
    """1,797 real handwritten digits, 8×8 pixels, grey; scikit-learn ships them, no download.

    1,200 images to train on, 200 to validate and 397 to test, in a fixed random order. Batches are
    (image ``(B, 1, 8, 8)`` in [0, 1], label ``(B,)``).

    Args:
        batch_size: Images in a batch.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If scikit-learn is not installed.

    References:
        Optical recognition of handwritten digits (Alpaydin, Kaynak, UCI repository, 1998).
    """

    num_classes = 10

    def __init__(self, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)
        self.save_hyperparameters()

    def splits(self) -> Splits:
        """Read the images and cut the fixed order."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UsageError("the digits need scikit-learn: pip install 'vaebm[digits]'") from error
        pixels, labels = load_digits(return_X_y=True)
        image = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16
        label = torch.from_numpy(labels).long()
        order = torch.randperm(len(image), generator=generator_for(0))
        train, val, test = order.split([1200, 200, 397])
        return Splits(*(Tensors(image[part], label[part]) for part in (train, val, test)))
