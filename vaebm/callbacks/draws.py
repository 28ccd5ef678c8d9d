"""Samples for evaluation, drawn in batches and the same every time."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for
from vaebm.stage import Stage


def draw_panels(
    pl_module: LightningModule,
    num_samples: int,
    *,
    num_steps: int | None = None,
    batch_size: int = 100,
    seed: int = 1,
) -> dict[str, Tensor]:
    """Samples of every model that a stage holds, by title.

    Args:
        pl_module: A stage.
        num_samples: Samples of each model.
        num_steps: Steps of a chain, instead of the sampler's own number.
        batch_size: Samples that are drawn at once.
        seed: Seed of the samples.

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
        parts.append(pl_module.panels(count, generator=generator, num_steps=num_steps))
    return {title: torch.cat([part[title] for part in parts]) for title in parts[0]}
