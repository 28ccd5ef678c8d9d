"""MNIST and StackedMNIST."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from vaebm.datamodules.base import (
    Batch,
    ByteImages,
    ImageDataModule,
    Splits,
    Tensors,
    datamodules,
    unit_interval,
)
from vaebm.datamodules.files import check_md5, fetch, images_extra, require_files
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for, run_seed

# Of the unpacked files; those that torchvision knows are of the packed ones.
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
HINT = "unpack the four published files there, or set download to true"


class Digits(NamedTuple):
    """Padded digits as bytes ``(N, 32, 32)`` and their labels ``(N,)``."""

    image: Tensor
    label: Tensor


class PaddedMNIST(ImageDataModule):
    """Base of the sets made of MNIST's digits, with a black margin that makes them 32×32.

    Args:
        root: Folder that holds ``MNIST/raw`` with the four published files, unpacked.
        batch_size: Images in a batch.
        download: Fetch the files into `root` if they are not there.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(self, root: str, batch_size: int, download: bool, num_workers: int) -> None:
        super().__init__(batch_size, num_workers)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        """Download, if wanted."""
        if self.download:
            published = images_extra("torchvision.datasets").MNIST
            fetch("MNIST", lambda: published(self.root, train=False, download=True))

    def digits(self) -> list[Digits]:
        """Read the training and the test digits."""
        published = images_extra("torchvision.datasets").MNIST
        folder = Path(self.root) / "MNIST/raw"
        require_files(folder, MD5, HINT)
        check_md5(folder, MD5)
        parts = (published(self.root, train=train) for train in (True, False))
        return [Digits(pad(part.data, (2, 2, 2, 2)), part.targets) for part in parts]


@datamodules.register
class MNISTDataModule(PaddedMNIST):
    """MNIST: 60,000 handwritten digits to train on, 10,000 to validate and test, 32×32 pixels.

    Batches are (image ``(B, 1, S, S)`` in [0, 1], label ``(B,)``) with S = `image_size`.

    Args:
        root: Folder that holds ``MNIST/raw`` with the four published files, unpacked.
        batch_size: Images in a batch.
        binarise: Make each pixel 1 with the probability that its grey value is, else 0; training
            images are drawn anew in each epoch, the others stay.
        image_size: 32, or 16 for means of 2×2 pixels.
        download: Fetch the files into `root` if they are not there.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing or torchvision is, or there is no such size.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Gradient-Based Learning Applied to Document Recognition (LeCun, Bottou, Bengio, Haffner,
        1998).
    """

    num_classes = 10

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 32,
        binarise: bool = False,
        image_size: Literal[32, 16] = 32,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root, batch_size, download, num_workers)
        if image_size not in (32, 16):
            raise UsageError(f"image_size is {image_size}, but MNIST comes in 32 and 16")
        self.save_hyperparameters()
        self.binarise = self.draws_anew = binarise
        self.image_size = image_size

    def splits(self) -> Splits:
        """Read both published parts."""
        train, test = (self._part(digits) for digits in self.digits())
        return Splits(train, test, test)

    def _part(self, digits: Digits) -> Tensors:
        image = digits.image[:, None]
        if self.image_size == 16:
            image = avg_pool2d(image.float(), 2).round().byte()
        if self.binarise:
            return BinarisedImages(image, digits.label, seed=run_seed())
        return ByteImages(image, digits.label)


class BinarisedImages(ByteImages):
    """Images of zeros and ones: a pixel is 1 with the probability that its grey value is.

    Args:
        image: Grey values as bytes, ``(N, 1, H, W)``.
        label: Labels, ``(N,)``.
        seed: Seed of the draws; the item's number, which may count on over epochs, is the rest.
    """

    def __init__(self, image: Tensor, label: Tensor, seed: int) -> None:
        super().__init__(image, label)
        self.seed = seed

    def __getitem__(self, index: Any) -> Batch:
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        numbers = torch.as_tensor(index)
        probability, label = super().__getitem__(numbers % len(self))
        draws = [self._uniform(number) for number in numbers.flatten().tolist()]
        uniform = torch.stack(draws).view_as(probability)
        return (uniform < probability).float(), label

    def _uniform(self, number: int) -> Tensor:
        generator = generator_for(Purpose.ITEMS, self.seed, number)
        return torch.rand(self.tensors[0].shape[1:], generator=generator)


@datamodules.register
class StackedMNISTDataModule(PaddedMNIST):
    """StackedMNIST: three random digits a, b, c as the colours of one image, 1,000 modes.

    120,000 images to train on and 20,000 of other digits to validate and test, 32×32 pixels. Each
    colour takes every digit twice, in two random orders. Batches are (image ``(B, 3, 32, 32)`` in
    [0, 1], label 100a + 10b + c ``(B,)``).

    Args:
        root: Folder that holds ``MNIST/raw`` with the four published files, unpacked.
        batch_size: Images in a batch.
        data_seed: Seed of the orders.
        download: Fetch the files into `root` if they are not there.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If files are missing or torchvision is.
        DataError: If files are damaged or cannot be downloaded.

    References:
        Unrolled Generative Adversarial Networks (Metz, Poole, Pfau, Sohl-Dickstein, 2017).
    """

    num_classes = 1000

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 32,
        data_seed: int = 0,
        download: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(root, batch_size, download, num_workers)
        self.save_hyperparameters()
        self.data_seed = data_seed

    def splits(self) -> Splits:
        """Read the digits and stack each published part from a stream of its own."""
        train, test = (
            stack(digits, Purpose.DATA, self.data_seed, part)
            for part, digits in enumerate(self.digits())
        )
        return Splits(train, test, test)


class StackedDigits(Tensors):
    """Digits stacked as colours when they are asked for, ``(B, 3, 32, 32)``, and mode labels.

    Args:
        digits: The digits.
        triples: Which digits are red, green and blue in each image, ``(N, 3)``.
    """

    def __init__(self, digits: Digits, triples: Tensor) -> None:
        super().__init__(triples, digits.label[triples] @ torch.tensor([100, 10, 1]))
        self.pixels = digits.image

    def __getitem__(self, index: Any) -> Batch:
        triples, label = super().__getitem__(index)
        return unit_interval(self.pixels[triples]), label


def stack(digits: Digits, *place: int) -> StackedDigits:
    """Stack N digits to 2N images, in orders that are a function of some integers."""
    size, generator = len(digits.label), generator_for(*place)
    orders = [torch.randperm(size, generator=generator) for _ in range(6)]
    return StackedDigits(digits, torch.stack([torch.cat(orders[i::3]) for i in range(3)], 1))
