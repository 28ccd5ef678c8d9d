"""Figures of a validation or test that depend on neither batches nor processes."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


def evaluation_loader(trainer: Trainer) -> DataLoader[Any]:
    """The loader of the validation, test or prediction that is running."""
    if trainer.predicting:
        loaders = trainer.predict_dataloaders
    else:
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    return loaders[0] if isinstance(loaders, Sequence) else loaders  # type: ignore[return-value]


def distributed_sampler(loader: DataLoader[Any]) -> DistributedSampler[Any] | None:
    """What deals a loader's images out to several processes, if anything does."""
    # In predictions Lightning wraps the batch sampler, and the loader knows no other.
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return sampler if isinstance(sampler, DistributedSampler) else None


def image_numbers(loader: DataLoader[Any], batch_idx: int, size: int) -> range:
    """Numbers of a batch's images in the data set, of a loader that does not shuffle.

    Of W processes, process r has the images r, r + W, r + 2W ... A distributed sampler fills up
    until all have equally many; the images that fill up get numbers beyond the last.

    Args:
        loader: The loader that made the batch.
        batch_idx: Number of the batch in this process.
        size: Images in the batch B.

    Returns:
        B numbers.
    """
    sampler = distributed_sampler(loader)
    rank, step = (0, 1) if sampler is None else (sampler.rank, sampler.num_replicas)
    first = batch_idx * (loader.batch_size or size)
    return range(first * step + rank, (first + size) * step + rank, step)


def batches(total: int, batch_size: int, world_size: int) -> list[range]:
    """The batches that processes share.

    They are those of one process, so that results are its results to the last bit; only where they
    are too few for all processes, they are smaller.

    Args:
        total: Images or samples N.
        batch_size: Numbers in a batch, at most.
        world_size: Number of processes W.

    Returns:
        Numbers of each batch, from 0 to N − 1 in order; at least W batches if N ≥ W.
    """
    size = max(1, min(batch_size, total // world_size))
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


def batches_of_process(trainer: Trainer, total: int, batch_size: int) -> list[range]:
    """The batches of this process, see `batches`."""
    return batches(total, batch_size, trainer.world_size)[trainer.global_rank :: trainer.world_size]


def log_means(module: LightningModule, values: Mapping[str, Tensor], batch_idx: int) -> None:
    """Log the means of values ``(B,)`` over all images of a validation or test, each counted once.

    Args:
        module: Whose step this is.
        values: Values of a batch's images, by name.
        batch_idx: Number of the batch in this process.
    """
    loader = evaluation_loader(module.trainer)
    for name, value in values.items():
        count = len(value)
        if distributed_sampler(loader) is not None:
            total = len(loader.dataset)  # type: ignore[arg-type]
            count = sum(n < total for n in image_numbers(loader, batch_idx, count))
        mean = value[:count].float().sum() / max(count, 1)
        # A float, because Lightning takes the mean of integers over processes and cuts it off.
        module.log(name, mean, batch_size=float(count), sync_dist=True)  # type: ignore[arg-type]
