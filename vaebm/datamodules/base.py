"""What all datamodules share: loaders, a resumable order of the data, a check for NaN."""

from collections.abc import Iterator
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

    def __getitems__(self, indices: list[int]) -> Batch:
        """The rows at `indices` of every tensor."""
        index = torch.tensor(indices)
        return tuple(tensor[index] for tensor in self.tensors)


class EpochSampler(Sampler[int]):
    """A random order that is a function of (seed, epoch) alone, so that a resumed run repeats it.

    Args:
        size: Number of items.
        seed: Seed of the orders.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = generator_for(Purpose.ORDER, self.seed, self.epoch)
        yield from torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        return self.size


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader that goes on within an epoch: Lightning stores and restores its position."""

    _position = 0
    _skip = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        skip, self._skip = self._skip, 0
        self._position = skip
        for batch in islice(super().__iter__(), skip, None):
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches given out in this epoch."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip in the next epoch what was given out already."""
        self._skip = state["position"] % max(1, len(self))


class ImageDataModule(LightningDataModule):
    """Base of the datamodules: a subclass says in `splits` what the three parts are.

    Args:
        batch_size: Images in a batch.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    Raises:
        UsageError: If `batch_size` is below 1.
    """

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
        if isinstance(part, TensorDataset) and not part.tensors[0].isfinite().all():
            bad = int((~part.tensors[0].isfinite()).flatten(1).any(1).sum())
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
        sampler = EpochSampler(size, run_seed())
        return self._loader(self.parts.train, sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches in order."""
        return self._loader(self.parts.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Test batches in order."""
        return self._loader(self.parts.test)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Test batches in order."""
        return self._loader(self.parts.test)

    def _loader(
        self, part: Dataset[Batch], sampler: EpochSampler | None = None, drop_last: bool = False
    ) -> DataLoader[Any]:
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


datamodules: Registry[LightningDataModule] = Registry("vaebm.datamodules", LightningDataModule)
