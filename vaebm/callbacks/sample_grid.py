"""Pictures of samples during training and after testing."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vaebm.callbacks.draws import before_averaging, draw_panels
from vaebm.callbacks.logs import log_folder, log_picture
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for
from vaebm.plotting import draw, save
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


def first_images(loader: object, count: int) -> Tensor:
    """The first images of a loader, at most `count`."""
    found: list[Tensor] = []
    for batch in loader:  # type: ignore[attr-defined]
        found.append(images_of(batch))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]
