"""What all datamodules share: loaders, a resumable order of the data, a check for NaN."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from vaebm.errors import DataError, UsageError
from vaebm.noise import Purpose, generator_for, run_seed
from vaebm.registry import Registry

Batch = tuple[Tensor, ...]


class Splits(NamedTuple):
    """The three parts of a data set."""

    train: Dataset[Batch]
    val: Dataset[Batch]
    test: Dataset[Batch]


class Tensors(TensorDataset):
    """Tensors indexed by their first dimension; a whole batch is one indexing operation."""

    def __getitem__(self, index: Any) -> Batch:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The rows at `indices` of every tensor."""
        return self[torch.tensor(indices)]


class ByteImages(Tensors):
    """Images that memory holds as bytes, ``(N, C, H, W)``, and labels; images come as floats."""

    def __getitem__(self, index: Any) -> Batch:
        image, *labels = super().__getitem__(index)
        return unit_interval(image), *labels


def unit_interval(pixels: Tensor) -> Tensor:
    """Bytes k as float32 k / 255 in [0, 1]."""
    return pixels.float().div_(255)  # a byte becomes a copy, so in place is safe


class EpochSampler(Sampler[int]):
    """A random order that is a function of (seed, epoch) alone, so that a resumed run repeats it.

    Args:
        size: Number of items N.
        seed: Seed of the orders.
        counts_on: Number the items on from epoch to epoch: item i of epoch e is e·N + i, so that
            a data set that crops at random, say, knows when to draw anew.
    """

    def __init__(self, size: int, seed: int, counts_on: bool = False) -> None:
        self.size = size
        self.seed = seed
        self.counts_on = counts_on
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = generator_for(Purpose.ORDER, self.seed, self.epoch)
        first = self.epoch * self.size if self.counts_on else 0
        yield from (first + torch.randperm(self.size, generator=generator)).tolist()

    def __len__(self) -> int:
        return self.size


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader that goes on within an epoch: Lightning stores and restores its position."""

    _position = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        skip, self._skip = self._skip, 0
        self._position = skip
        try:
            for batch in islice(super().__iter__(), skip, None):
                self._position += 1
                yield batch
        except DataError as error:
            if self.num_workers == 0:
                raise
            # The frames of the traceback hold the workers, which would then end seconds late.
            raise _words_of(error) from error.with_traceback(None)

    def state_dict(self) -> dict[str, int]:
        """Batches given out in this epoch."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip in the next epoch what was given out already."""
        self._skip = state["position"] % max(1, len(self))


class ImageDataModule(LightningDataModule):
    """Base of the datamodules: a subclass says in `splits` what the three parts are.

    Where `draws_anew` is set, the training part gets numbers that count on from epoch to epoch,
    see `EpochSampler`.

    Args:
        batch_size: Images in a batch.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If `batch_size` is below 1.
    """

    draws_anew = False

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}, but at least 1 is due")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._splits: Splits | None = None

    def splits(self) -> Splits:
        """Make or read the three parts."""
        raise TypeError(f"{type(self).__name__} has no splits()")

    @property
    def parts(self) -> Splits:
        """The three parts, made once."""
        if self._splits is None:
            self._splits = self.splits()
            for name, part in self._splits._asdict().items():
                self._check(name, part)
        return self._splits

    def _check(self, name: str, part: Dataset[Batch]) -> None:
        size = len(part)  # type: ignore[arg-type]
        if size == 0:
            raise DataError(f"the {name} part of {type(self).__name__} is empty")
        values = part.tensors[0] if isinstance(part, TensorDataset) else torch.empty(0)
        if values.is_floating_point() and not values.isfinite().all():
            bad = int((~values.isfinite()).flatten(1).any(1).sum())
            raise DataError(
                f"{bad} of {size} {name} items of {type(self).__name__} hold NaN or infinity"
            )

    def setup(self, stage: str) -> None:
        """Make the parts before training or evaluation starts, so that errors come first."""
        size = len(self.parts.train)  # type: ignore[arg-type]
        if stage == "fit" and size < self.batch_size:
            raise UsageError(f"batch_size {self.batch_size} exceeds the {size} training images")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, all full."""
        size = len(self.parts.train)  # type: ignore[arg-type]
        sampler = EpochSampler(size, run_seed(), self.draws_anew)
        return self.loader(self.parts.train, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in order."""
        return self.loader(self.parts.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in order."""
        return self.loader(self.parts.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Test batches in order.

        Raises:
            UsageError: If a process would have none.
        """
        test: Any = self.parts.test
        images, processes = len(test), self.trainer.world_size if self.trainer else 1
        if images < processes:
            raise UsageError(f"{images} images are too few for {processes} processes")
        return self.loader(test)

    def loader(
        self,
        part: Dataset[Batch],
        sampler: Iterable[int] | None = None,
        drop_last: bool = False,
    ) -> DataLoader[Any]:
        """Batches of one part.

        Args:
            part: One of `parts`.
            sampler: Numbers of the items, in their order; None takes all.
            drop_last: Whether to leave out a last batch that is not full.
        """
        return ResumableDataLoader(
            part,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            collate_fn=_as_is if isinstance(part, Tensors) else None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def _as_is(batch: Any) -> Any:
    """`Tensors` gives whole batches already."""
    return batch


def _words_of(error: DataError) -> DataError:
    """A worker's error without the worker's traceback, which torch writes before the message."""
    last = str(error).strip().splitlines()[-1]
    return DataError(last.removeprefix(f"{DataError.__module__}.{DataError.__qualname__}: "))


datamodules: Registry[LightningDataModule] = Registry("vaebm.datamodules", LightningDataModule)
