"""Samples for evaluation, drawn in batches and the same every time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from vaebm.errors import UsageError
from vaebm.evaluation import batches_of_process
from vaebm.noise import Purpose, RowGenerators, generator_for
from vaebm.sampling import require_finite
from vaebm.stage import Stage


def before_averaging(trainer: Trainer, callback: Callback) -> None:
    """Put a callback before weight averaging, so that it sees averaged weights.

    Averaging swaps the weights back at the end of a validation, and ``--trainer.callbacks+=``
    appends behind it.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    averaging = [i for i, other in enumerate(callbacks) if isinstance(other, WeightAveraging)]
    if averaging and averaging[0] < callbacks.index(callback):
        callbacks.remove(callback)
        callbacks.insert(averaging[0], callback)


def numbered_samples(
    trainer: Trainer,
    draw: Callable[[RowGenerators], Tensor],
    num_samples: int,
    *,
    device: torch.device,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of the samples that `vaebm sample` draws.

    Args:
        trainer: Says which process this is, and the precision.
        draw: Draws a sample for each row of the generator.
        num_samples: Samples of all processes.
        device: Where they are drawn.
        seed: Sample i is a function of (seed, i).
        batch_size: Samples at once.

    Yields:
        Numbers of samples ``(B,)`` and the samples.
    """
    for batch in batches_of_process(trainer, num_samples, batch_size):
        with trainer.precision_plugin.forward_context():
            samples = draw(RowGenerators(seed, batch, device=device))
        yield torch.tensor(batch), require_finite(samples)


def draw_panels(
    pl_module: LightningModule,
    num_samples: int,
    *,
    num_steps: int | None = None,
    batch_size: int = 100,
    seed: int = 1,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    """Samples of every model that a stage holds, by title.

    Args:
        pl_module: A stage.
        num_samples: Samples of each model.
        num_steps: Steps of a chain, instead of the sampler's own number.
        batch_size: Samples that are drawn at once.
        seed: Seed of the samples.
        precision: Makes the context to draw in; a trainer's is that of its precision plugin.

    Returns:
        Images ``(num_samples, C, H, W)`` or points ``(num_samples, 2)``: ``VAE``, and ``VAEBM`` in
        stage 2.
    """
    if not isinstance(pl_module, Stage):
        raise UsageError(f"{type(pl_module).__name__} cannot sample: it is no stage of vaebm")
    parts = []
    for start in range(0, num_samples, batch_size):
        generator = generator_for(Purpose.PANELS, seed, start, device=pl_module.device)
        count = min(batch_size, num_samples - start)
        with precision():
            parts.append(pl_module.panels(count, generator=generator, num_steps=num_steps))
    return {title: torch.cat([part[title] for part in parts]) for title in parts[0]}
