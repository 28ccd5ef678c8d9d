"""How quality depends on the length of the chains that samples are drawn with."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from vaebm.callbacks.class_features import Distances, classifier_of, labelled
from vaebm.callbacks.logs import log_folder, log_picture
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for
from vaebm.plotting import save


class SampleSteps(Callback):
    """Draws sample quality against the number of steps, from chains that go on and on.

    Trained with few steps and no replay buffer, an energy is a generator for chains of about that
    length and no calibrated density: quality peaks at 2 to 4 times the training's steps, then
    samples fall below the energy of the data and quality is lost. With a buffer and a magnitude
    penalty it holds much longer. This evaluation shows which it is.

    After a test, for each number of steps: ``test/frechet_steps_<n>`` to the training images in a
    classifier's features, as `ClassifierFrechet` has them, and ``test/energy_steps_<n>``, the mean
    energy of the samples, beside ``test/energy_data``. All of it also goes to
    ``sample_steps.csv`` and ``sample_steps.png`` in the log folder, and the picture to loggers.

    Args:
        steps: Numbers of steps, in any order; the chains take the largest.
        num_samples: Samples.
        batch_size: Samples that are drawn at once.
        epochs: Epochs of the classifier.
        cache: File that keeps the classifier from one run to the next; None trains it each time.
    """

    def __init__(
        self,
        steps: Sequence[int] = (5, 10, 20, 40, 80, 160),
        num_samples: int = 1000,
        batch_size: int = 100,
        epochs: int = 25,
        cache: str | None = None,
    ) -> None:
        if not steps or min(steps) < 1 or num_samples < 2 or batch_size < 1:
            raise UsageError("SampleSteps needs steps ≥ 1, num_samples ≥ 2 and batch_size ≥ 1")
        self.steps = sorted(set(steps))
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.epochs = epochs
        self.cache = cache

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the chains, measure, log and draw; every rank computes the same."""
        if not isinstance(pl_module, EBMStage):
            raise UsageError("SampleSteps is for stage 2: samples of the VAE take no steps")
        data = trainer.datamodule  # type: ignore[attr-defined]
        classifier = classifier_of(data, pl_module.device, self.epochs, self.cache)
        distances = Distances(classifier, labelled(data.parts.train, pl_module.device)[0])
        test = labelled(data.parts.test, pl_module.device)[0]
        rows = []
        with trainer.precision_plugin.forward_context():
            drawn = self.samples(pl_module)
        for steps, images in drawn.items():
            energy = mean_energy(pl_module, images)
            rows.append((steps, float(distances.to(images)), float(energy)))
            pl_module.log(f"test/frechet_steps_{steps}", rows[-1][1])
            pl_module.log(f"test/energy_steps_{steps}", rows[-1][2])
        energy_data = float(mean_energy(pl_module, test))
        pl_module.log("test/energy_data", energy_data)
        folder = log_folder(trainer)
        if trainer.is_global_zero:
            figure = draw_rows(rows, energy_data, pl_module.sampler.num_steps)
            write(rows, energy_data, folder, figure)
            log_picture(trainer, "sample_steps", figure, trainer.global_step)

    def samples(self, stage: EBMStage) -> dict[int, Tensor]:
        """Images ``(num_samples, C, H, W)`` by number of steps, of the same chains."""
        found: dict[int, list[Tensor]] = {steps: [] for steps in self.steps}
        for first in range(0, self.num_samples, self.batch_size):
            count = min(self.batch_size, self.num_samples - first)
            generator = generator_for(Purpose.PANELS, 1, first, device=stage.device)
            state = stage.space.start(stage.vae, count, generator=generator)
            for before, steps in zip([0, *self.steps], self.steps, strict=False):
                state, _ = stage.run_chains(state, generator, steps - before)
                found[steps].append(stage.space.image(stage.vae, state))
        return {steps: torch.cat(parts) for steps, parts in found.items()}


def mean_energy(stage: EBMStage, images: Tensor) -> Tensor:
    """Mean of E over images, a scalar."""
    return torch.cat([stage.energies(batch) for batch in images.split(500)]).mean()


def draw_rows(rows: list[tuple[int, float, float]], energy_data: float, trained: int) -> Figure:
    """Fréchet distance and energy against the number of steps."""
    steps, distance, energy = zip(*rows, strict=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, distance, "o-")
    left.margins(y=0.1)
    left.set(ylabel="Fréchet distance", ylim=(0, None))
    right.plot(steps, energy, "o-", label="samples")
    right.axhline(energy_data, color="black", linewidth=1, label="test images")
    right.set(ylabel="mean energy")
    for axis in (left, right):
        axis.axvline(trained, color="gray", linestyle=":", label="steps in training")
        axis.set(xlabel="Langevin steps", xscale="log")
        axis.set_xticks(steps, map(str, steps), minor=False)
        axis.minorticks_off()
    right.legend(frameon=False)
    return figure


def write(
    rows: list[tuple[int, float, float]], energy_data: float, folder: Path, figure: Figure
) -> None:
    """Write the table and the picture."""
    save(figure, folder / "sample_steps.png")
    with (folder / "sample_steps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("steps", "frechet", "energy", "energy_data"))
        writer.writerows((*row, energy_data) for row in rows)
