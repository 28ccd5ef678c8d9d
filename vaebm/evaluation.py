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
    sampler = loader.sampler
    rank, step = 0, 1
    if isinstance(sampler, DistributedSampler):
        rank, step = sampler.rank, sampler.num_replicas
    first = batch_idx * (loader.batch_size or size)
    return range(first * step + rank, (first + size) * step + rank, step)


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
        if isinstance(loader.sampler, DistributedSampler):
            total = len(loader.dataset)  # type: ignore[arg-type]
            count = sum(n < total for n in image_numbers(loader, batch_idx, count))
        mean = value[:count].float().sum() / max(count, 1)
        # A float, because Lightning takes the mean of integers over processes and cuts it off.
        module.log(name, mean, batch_size=float(count), sync_dist=True)  # type: ignore[arg-type]
