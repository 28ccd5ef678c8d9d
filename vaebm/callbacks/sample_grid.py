"""Pictures of samples during training and after testing."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from vaebm.callbacks.draws import before_averaging, draw_panels
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for
from vaebm.plotting import draw, pixels_of, save
from vaebm.stage import Stage, images_of


class SampleGrid(Callback):
    """Draws data, VAE and VAEBM side by side, of 2-D toys also the energy surface.

    Stage 1 also shows reconstructions of the data: the decoder's mean at a posterior sample.

    A picture is made after every validation and after a test, from the same noise each time, and
    goes to ``samples/step=N.png`` in the log folder and to every logger that takes images (Weights
    & Biases, TensorBoard). With weight averaging it shows the averaged weights.

    Args:
        num_samples: Samples in each panel.
        every_n_validations: Validations between two pictures.
    """

    def __init__(self, num_samples: int = 64, every_n_validations: int = 1) -> None:
        if num_samples < 1 or every_n_validations < 1:
            raise UsageError("SampleGrid needs num_samples ≥ 1 and every_n_validations ≥ 1")
        self.num_samples = num_samples
        self.every_n_validations = every_n_validations
        self._validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come before weight averaging."""
        before_averaging(trainer, self)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, unless this is the sanity check before training."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        if self._validations % self.every_n_validations == 0:
            self._picture(trainer, pl_module, trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        self._picture(trainer, pl_module, trainer.test_dataloaders)

    def _picture(self, trainer: Trainer, pl_module: LightningModule, loader: object) -> None:
        folder = log_folder(trainer)
        if not trainer.is_global_zero:
            return
        data = first_images(loader, self.num_samples)
        precision = trainer.precision_plugin.forward_context
        panels = {
            "data": data,
            **self._pictures_of(pl_module, data),
            **draw_panels(pl_module, self.num_samples, precision=precision),
        }
        figure = draw(panels, getattr(pl_module, "energy", None))
        step = trainer.global_step
        name = "test" if trainer.testing else f"step={step:07d}"
        save(figure, folder / "samples" / f"{name}.png")
        log_picture(trainer, "samples", figure, step)

    @staticmethod
    def _pictures_of(pl_module: LightningModule, data: Tensor) -> dict[str, Tensor]:
        """Reconstructions and the like; of points they would only cover the data."""
        if not isinstance(pl_module, Stage) or data.ndim == 2:
            return {}
        generator = generator_for(Purpose.PANELS, 0, device=pl_module.device)
        return pl_module.pictures_of(data.to(pl_module.device), generator=generator)


def log_picture(trainer: Trainer, name: str, figure: Figure, step: int) -> None:
    """Give a picture to every logger that takes pictures."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [pixels_of(figure)], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            board = logger.experiment  # type: ignore[attr-defined]
            board.add_image(name, pixels_of(figure), step, dataformats="HWC")


def log_folder(trainer: Trainer) -> Path:
    """Where this run writes its files: beside its checkpoints.

    Processes agree on it, so that all of them must ask, also if only the first one writes.
    """
    logger = trainer.logger
    if logger is None or logger.save_dir is None or getattr(logger, "log_dir", None) is not None:
        return Path(trainer.log_dir or trainer.default_root_dir)
    # Weights & Biases has one save_dir for all runs, and Lightning's checkpoints go below it.
    return Path(logger.save_dir, str(logger.name), str(logger.version))


def first_images(loader: object, count: int) -> Tensor:
    """The first images of a loader, at most `count`."""
    found: list[Tensor] = []
    for batch in loader:  # type: ignore[attr-defined]
        found.append(images_of(batch))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]
