"""Drawing a set of samples and writing it down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vaebm.errors import DataError
from vaebm.noise import RowGenerators
from vaebm.plotting import draw, save, stretched, tile, to_uint8
from vaebm.stage import Stage


class SampleOptions(NamedTuple):
    """How to draw.

    Attributes:
        seed: Seed; sample i is a function of (seed, i) alone.
        num_steps: Steps of a chain, None for the sampler's own number.
        mean: Decoder means instead of samples.
        temperature: Factor on the scale of every latent group, stage 1 only.
        recalibrations: Passes of prior samples that renew the generator's batch-norm statistics.
    """

    seed: int
    num_steps: int | None = None
    mean: bool = False
    temperature: float = 1.0
    recalibrations: int = 0


class SampleLoop(LightningModule):
    """Turns batches of sample numbers into samples, so that Trainer.predict spreads the work.

    Every sample has a random stream of its own: the set does not depend on batch size or number
    of processes.

    Args:
        stage: The model to draw from.
        options: How to draw.
    """

    def __init__(self, stage: Stage, options: SampleOptions) -> None:
        super().__init__()
        self.stage: Stage = stage
        self.options = options

    def on_predict_start(self) -> None:
        """Renew batch-norm statistics if asked for, on every process alike."""
        seed, _, _, temperature, passes = self.options
        if passes:
            self.stage.recalibrate(passes, seed=seed, temperature=temperature)

    def predict_step(self, batch: Sequence[int], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Sample numbers ``(B,)`` and their samples."""
        options = self.options
        samples = self.stage.sample(
            len(batch),
            generator=RowGenerators(options.seed, batch, device=self.device),
            num_steps=options.num_steps,
            mean=options.mean,
            temperature=options.temperature,
        )
        return torch.tensor(batch), require_finite(samples.cpu())


def require_finite(samples: Tensor) -> Tensor:
    """The samples, if all are numbers.

    Raises:
        DataError: If a chain ended at NaN or infinity.
    """
    lost = int((~samples.isfinite()).flatten(1).any(1).sum())
    if lost:
        raise DataError(
            f"{lost} of {len(samples)} samples hold NaN or infinity: chains diverged; take fewer "
            "steps, a smaller step size or an earlier checkpoint"
        )
    return samples


def gather(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Join the parts of all ranks in the order of the sample numbers."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, parts)
        parts = [part for rank in ranks for part in rank]
    index = torch.cat([index for index, _ in parts])
    return torch.cat([samples for _, samples in parts])[index.argsort()]


def write_samples(
    samples: Tensor, output: Path, stage: Stage, *, individual: bool, stretch: bool
) -> None:
    """Write samples.npz, grid.png and, if asked for, one PNG a sample.

    Args:
        samples: Images ``(N, C, H, W)`` in [0, 1] or points ``(N, 2)``.
        output: Folder to write to.
        stage: The model they come from.
        individual: Write one PNG a sample; images only.
        stretch: Stretch each image to the whole range of bytes; images only.
    """
    output.mkdir(parents=True, exist_ok=True)
    if samples.ndim == 2:
        arrays: NDArray[Any] = samples.numpy()
        save(draw({stage.title: samples}, getattr(stage, "energy", None)), output / "grid.png")
    else:
        arrays = to_uint8(stretched(samples) if stretch else samples)
        Image.fromarray(tile(arrays[:64], gap=2)).save(output / "grid.png")
        if individual:
            for number, image in enumerate(arrays):
                Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                    output / f"{number:06d}.png"
                )
    np.savez(output / "samples.npz", arr_0=arrays)
