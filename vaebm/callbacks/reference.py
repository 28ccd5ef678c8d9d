"""Statistics of real images in the features of a network, kept in a file."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from vaebm.callbacks.class_features import is_relevant
from vaebm.checkpoints.atomic import write_atomically
from vaebm.checkpoints.reading import load_data
from vaebm.configurable import class_path
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Tensors
from vaebm.datamodules.encoded_images import EncodedFiles
from vaebm.errors import DataError, UsageError
from vaebm.metrics.inception import ImageFeatures
from vaebm.sampling import gather
from vaebm.stage import images_of

BATCH = 100  # images at once: Inception enlarges them to 299×299
PROBES = 16  # images that stand for a data set of which nothing else is known


class Reference(NamedTuple):
    """Sums over all N real images, and the features of the first K of them.

    Attributes:
        total: Σ f, ``(D,)`` in float64.
        outer: Σ f fᵀ, ``(D, D)`` in float64.
        num_images: N.
        rows: Features, ``(K, D)``.
    """

    total: Tensor
    outer: Tensor
    num_images: int
    rows: Tensor


@torch.no_grad()
def features_of(extractor: nn.Module, images: Tensor) -> ImageFeatures:
    """Features of images as a file would hold them, rounded to bytes.

    Args:
        extractor: Gives `ImageFeatures`, or features ``(B, D)`` alone.
        images: Images, ``(B, C, H, W)``.
    """
    features = extractor(images.float().clamp(0, 1).mul(255).round().div(255))
    found = features if isinstance(features, ImageFeatures) else ImageFeatures(features)
    if not isinstance(found.pooled, Tensor) or found.pooled.ndim != 2:
        raise UsageError(f"{type(extractor).__name__} gives no features (B, D) of images")
    return found


def reference_of(
    trainer: Trainer,
    data: ImageDataModule,
    split: str,
    extractor: nn.Module,
    *,
    keep: int,
    cache: Path | None,
) -> Reference:
    """The statistics of one part of the data: from a file, or computed by all processes together.

    Args:
        trainer: Says which process this is.
        data: The datamodule.
        split: ``train`` or ``test``.
        extractor: The network, on the trainer's device.
        keep: K, number of images whose features are kept.
        cache: Folder of the files; None keeps none.
    """
    part = getattr(data.parts, split)
    path = None if cache is None else cache / file_name(data, split, extractor, keep)
    # Other processes may see another disk, or the file late: one reads for all.
    found = _read(path) if path and trainer.is_global_zero and path.exists() else None
    found = trainer.strategy.broadcast(found)
    if found is not None:
        return found
    device = trainer.strategy.root_device  # an extractor need not have parameters to ask
    numbers = range(trainer.global_rank, len(part), trainer.world_size)
    sums: list[Any] = [0.0, 0.0]
    rows = []
    for index, images in _batches(data, part, numbers):
        pooled = features_of(extractor, images.to(device)).pooled
        double = pooled.double()
        sums = [sums[0] + double.sum(0), sums[1] + double.T @ double]
        chosen = index < keep
        rows.append((index[chosen], pooled[chosen.to(device)].cpu()))
    total, outer = (trainer.strategy.reduce(value, reduce_op="sum") for value in sums)
    reference = Reference(total.cpu(), outer.cpu(), len(part), gather(rows))
    if path and trainer.is_global_zero:
        _keep(path, reference)
    return reference


def _batches(
    data: ImageDataModule, part: Any, numbers: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images of a part and their numbers, in batches."""
    done = 0
    for batch in data.loader(part, sampler=numbers):
        images = images_of(batch)
        for some in images.split(BATCH):
            yield torch.tensor(numbers[done : done + len(some)]), some
            done += len(some)


def file_name(data: ImageDataModule, split: str, extractor: nn.Module, keep: int) -> str:
    """A name that says what the statistics are of: data set, part, options, images, network.

    The network is known by its class, its ``repr`` and its weights.
    """
    part = getattr(data.parts, split)
    options = {k: repr(v) for k, v in sorted(data.hparams.items()) if is_relevant(k)}
    facts = [class_path(type(data)), split, options, len(part), keep]
    facts += [class_path(type(extractor)), repr(extractor)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for content in contents(part):
        digest.update(content)
    for name, value in extractor.state_dict().items():
        digest.update(name.encode() + as_bytes(value))
    return f"{type(data).__name__}-{split}-{digest.hexdigest()[:16]}.pt"


def contents(part: Any) -> Iterator[bytes]:
    """What tells the images of a part from others: all of them, or their files, and some images."""
    if isinstance(part, Tensors):
        yield from (as_bytes(tensor) for tensor in part.tensors)
    elif isinstance(getattr(part, "files", None), EncodedFiles):
        yield part.files.stamp().encode()
    for number in range(0, len(part), max(1, len(part) // PROBES)):
        yield as_bytes(images_of(part[number]))


def as_bytes(value: Tensor) -> bytes:
    """A tensor's memory, of any type."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _read(path: Path) -> Reference:
    stored = load_data(path)
    try:
        return Reference(**stored)
    except TypeError as error:
        raise DataError(f"{path} holds no statistics of images: remove it") from error


def _keep(path: Path, reference: Reference) -> None:
    """Write the file; that a folder cannot be written to is no reason to stop."""
    try:
        write_atomically(path, reference._asdict())
    except (OSError, RuntimeError) as error:  # torch has its own error of files
        print(f"statistics of the real images are not kept: {error}")
