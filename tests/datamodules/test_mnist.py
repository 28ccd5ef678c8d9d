"""MNIST, binarised MNIST and StackedMNIST."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vaebm.datamodules import ImageDataModule, MNISTDataModule, StackedMNISTDataModule
from vaebm.datamodules.base import Splits
from vaebm.datamodules.mnist import MD5, BinarisedImages, Digits, PaddedMNIST, stack
from vaebm.errors import DataError, UsageError

datasets = pytest.importorskip("torchvision.datasets")


@pytest.fixture(scope="module")
def digits(mnist_root: str) -> list[Digits]:
    return PaddedMNIST(mnist_root, 32, False, 0).digits()


@pytest.fixture(scope="module")
def stacked(mnist_root: str) -> Splits:
    return StackedMNISTDataModule(mnist_root).parts


def test_mnist_has_its_sizes(mnist_root: str) -> None:
    parts = MNISTDataModule(mnist_root).parts
    assert [len(part) for part in parts] == [60_000, 10_000, 10_000]  # type: ignore[arg-type]


def test_digits_are_the_published_ones_in_a_black_margin(mnist_root: str) -> None:
    published = datasets.MNIST(mnist_root, train=False)
    image, label = MNISTDataModule(mnist_root).parts.test[:]
    assert (image.dtype, image.shape) == (torch.float32, (10_000, 1, 32, 32))
    assert torch.equal((image[:, 0, 2:-2, 2:-2] * 255).round().byte(), published.data)
    image[:, :, 2:-2, 2:-2] = 0
    assert not image.any()
    assert torch.equal(label, published.targets)


def test_small_pixels_are_means_of_four_rounded_to_bytes(mnist_root: str) -> None:
    whole, small = (MNISTDataModule(mnist_root, image_size=size).parts for size in (32, 16))
    image = (whole.test[:][0] * 255).round()
    mean = (image[..., ::2, ::2] + image[..., 1::2, ::2]) + (
        image[..., ::2, 1::2] + image[..., 1::2, 1::2]
    )
    assert torch.equal(small.test[:][0], (mean / 4).round() / 255)
    assert torch.equal(small.test[:][1], whole.test[:][1])


@pytest.mark.parametrize("binarise", [False, True])
def test_batches_of_small_images_have_their_shape(mnist_root: str, binarise: bool) -> None:
    data = MNISTDataModule(mnist_root, batch_size=5, image_size=16, binarise=binarise)
    image, label = next(iter(data.train_dataloader()))
    assert (image.dtype, image.shape, label.shape) == (torch.float32, (5, 1, 16, 16), (5,))
    assert 0 < image.mean() < 0.5


@pytest.mark.parametrize("size", [28, 0, 64])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"image_size is {size}, but MNIST comes in 32 and 16"):
        MNISTDataModule(image_size=size)  # type: ignore[arg-type]


def test_mnist_images_are_never_mirrored() -> None:
    hook = ImageDataModule.on_after_batch_transfer
    assert MNISTDataModule.on_after_batch_transfer is hook
    assert StackedMNISTDataModule.on_after_batch_transfer is hook


def grey(size: int) -> BinarisedImages:
    """Images whose pixels are 0, 51, 102 ... 255."""
    image = torch.arange(0, 256, 51, dtype=torch.uint8).expand(size, 1, 1, 6)
    return BinarisedImages(image, torch.arange(size), seed=3)


def test_binarised_pixels_are_one_as_often_as_they_are_bright() -> None:
    image, _ = grey(4000)[:]
    assert set(image.unique().tolist()) == {0.0, 1.0}
    expected = torch.linspace(0, 1, 6)
    bound = 5 * (expected * (1 - expected) / 4000).sqrt()
    assert ((image.mean(0)[0, 0] - expected).abs() <= bound).all()


def test_binarised_image_is_a_function_of_its_number() -> None:
    part = grey(64)
    batch, label = part.__getitems__([5, 70, 5])
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(batch[1], part[70][0])
    assert label.tolist() == [5, 6, 5]


def test_binarised_images_are_drawn_anew_in_the_next_epoch() -> None:
    part = grey(64)
    first, second = (part.__getitems__(list(range(64 * e, 64 * e + 64)))[0] for e in range(2))
    assert not torch.equal(first, second)


def test_binarised_training_numbers_its_epochs(mnist_root: str) -> None:
    loader = MNISTDataModule(mnist_root, binarise=True).train_dataloader()
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert min(loader.sampler) == 60_000
    assert set(next(iter(loader))[0].unique().tolist()) == {0.0, 1.0}


def test_binarised_evaluation_is_always_the_same(mnist_root: str) -> None:
    data = MNISTDataModule(mnist_root, binarise=True, batch_size=100)
    first, second = (next(iter(data.val_dataloader()))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_worker_processes_change_no_binarised_batch(mnist_root: str) -> None:
    batches = []
    for num_workers in (0, 2):
        data = MNISTDataModule(mnist_root, 2000, binarise=True, num_workers=num_workers)
        batches.append(list(data.test_dataloader()))
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first[0], second[0])


def test_stacked_parts_have_their_sizes(stacked: Splits) -> None:
    assert [len(part) for part in stacked] == [120_000, 20_000, 20_000]  # type: ignore[arg-type]


def test_stacked_colours_are_digits_of_the_label(stacked: Splits, digits: list[Digits]) -> None:
    of_image = {image.numpy().tobytes(): int(n) for image, n in zip(*digits[1], strict=True)}
    image, label = stacked.test[:2000]
    assert (image.dtype, image.shape) == (torch.float32, (2000, 3, 32, 32))
    for stack_, mode in zip((image * 255).round().byte(), label.tolist(), strict=True):
        a, b, c = (of_image[colour.numpy().tobytes()] for colour in stack_)
        assert mode == 100 * a + 10 * b + c


def test_stacked_colours_take_every_digit_twice(stacked: Splits) -> None:
    triples = stacked.train.tensors[0]  # type: ignore[attr-defined]
    for colour in triples.unbind(1):
        assert (colour.bincount() == 2).all()


def test_modes_are_as_frequent_as_independent_digits_make_them(
    stacked: Splits, digits: list[Digits]
) -> None:
    share = digits[0].label.bincount() / 60_000
    expected = 120_000 * torch.einsum("a,b,c->abc", share, share, share).flatten()
    found = stacked.train.tensors[1].bincount(minlength=1000)  # type: ignore[attr-defined]
    chi2 = float(((found - expected).square() / expected).sum())
    # χ² of a 10×10×10 table with given margins: 10³ - 1 - 3·9 = 972 degrees of freedom.
    assert abs(chi2 - 972) < 5 * (2 * 972) ** 0.5


def test_all_thousand_modes_are_there(stacked: Splits) -> None:
    for part in stacked:
        assert len(part.tensors[1].unique()) == StackedMNISTDataModule.num_classes  # type: ignore[attr-defined]


def few_digits() -> Digits:
    return Digits(torch.arange(20, dtype=torch.uint8).view(20, 1, 1), torch.arange(20) % 10)


def test_stacks_are_the_same_every_time_and_differ_with_the_seed() -> None:
    torch.manual_seed(7)
    first, again, other = (stack(few_digits(), seed)[:] for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_colours_are_in_different_orders() -> None:
    colours = stack(few_digits(), 1)[:][0].flatten(2).unbind(1)
    assert len({tuple(colour.flatten().tolist()) for colour in colours}) == 3


def test_data_seed_chooses_the_stacks(mnist_root: str, stacked: Splits) -> None:
    other = StackedMNISTDataModule(mnist_root, data_seed=1).parts
    assert not torch.equal(other.test[:][1], stacked.test[:][1])


MAKERS = [MNISTDataModule, StackedMNISTDataModule]


@pytest.mark.parametrize("make", MAKERS)
def test_missing_files_are_named_with_what_to_do(
    tmp_path: Path, make: Callable[[str], ImageDataModule]
) -> None:
    message = f"^{tmp_path / 'MNIST/raw'} lacks {', '.join(MD5)}: unpack the four published files"
    with pytest.raises(UsageError, match=message):
        make(str(tmp_path)).setup("fit")


def test_damaged_files_are_named(tmp_path: Path, mnist_root: str) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in MD5:
        (raw / name).symlink_to(Path(mnist_root) / "MNIST/raw" / name)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(bytes(8))
    with pytest.raises(DataError, match=f"^{raw}: t10k-labels-idx1-ubyte damaged"):
        MNISTDataModule(str(tmp_path)).setup("fit")


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match=r"^MNIST cannot be downloaded: .*refused"):
        MNISTDataModule(str(tmp_path), download=True).prepare_data()


def test_files_that_are_there_are_not_downloaded(
    mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    MNISTDataModule(mnist_root, download=True).prepare_data()
