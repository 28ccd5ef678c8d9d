"""Train a classifier, with which samples of labelled data are judged."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor

from vaebm.errors import Diverged, UsageError
from vaebm.evaluation import log_means
from vaebm.models.classifier import SmallClassifier
from vaebm.noise import Purpose, generator_for, run_seed
from vaebm.stage import lr_factor
from vaebm.stored_module import StoredModule


class ClassifierStage(StoredModule):
    """A small convolutional classifier, trained by cross-entropy on images shifted at random.

    Adam with a learning rate that grows for three tenths of the training and falls by a cosine. No
    part of VAEBM: it counts the digits in samples of StackedMNIST (`StackedModes`).

    Args:
        image_shape: Channels, height and width of the images, the last two at least 8.
        num_classes: Number of classes.
        lr: Largest learning rate.
        max_shift: Largest shift of training images each way, in pixels.
        seed: Seed of the shifts; None takes the run's ``seed_everything``.

    Raises:
        UsageError: If an argument makes no sense.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        lr: float = 3e-3,
        max_shift: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if len(image_shape) != 3 or min(image_shape[1:]) < 8 or num_classes < 2 or max_shift < 0:
            raise UsageError(
                "ClassifierStage needs an image_shape (C, H, W) with H and W ≥ 8, num_classes ≥ 2 "
                "and max_shift ≥ 0"
            )
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.lr = lr
        self.max_shift = max_shift
        self.seed = run_seed() if seed is None else seed
        self.classifier = SmallClassifier(image_shape, num_classes)
        self.store_hyperparameters()

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.classifier(image)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, warm-up and cosine."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UsageError("the cycle of the learning rate needs trainer.max_steps or max_epochs")
        factor = partial(lr_factor, total=int(steps), warmup=0.3 * steps, final=0.0)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of shifted images, in nats."""
        image, label = self._labelled(batch)
        place = (Purpose.TRAINING, self.seed, self.global_rank, self.global_step, batch_idx)
        image = shifted(image, self.max_shift, generator_for(*place))
        loss = F.cross_entropy(self(image), label)
        if not loss.isfinite():
            raise Diverged(f"the loss of step {self.global_step} is {loss.item()}: lower lr")
        self.log("train/cross_entropy", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the share of images that are recognised."""
        self._log_accuracy("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the share of images that are recognised."""
        self._log_accuracy("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The class of every image, ``(B,)``."""
        return {"label": self(self._labelled(batch)[0]).argmax(1)}

    def _log_accuracy(self, split: str, batch: Any, batch_idx: int) -> None:
        image, label = self._labelled(batch)
        log_means(self, {f"{split}/accuracy": self(image).argmax(1) == label}, batch_idx)

    def _labelled(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch, of the shape that the classifier is made for."""
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise UsageError("a classifier needs labelled images, and these data have no labels")
        image, label = batch[:2]
        if image.shape[1:] != self.image_shape:
            raise UsageError(
                f"the data are of shape {tuple(image.shape[1:])}, but the classifier is made for "
                f"{self.image_shape}"
            )
        if int(label.max()) >= self.num_classes:
            raise UsageError(f"label {int(label.max())} is none of {self.num_classes} classes")
        return image, label


def shifted(image: Tensor, max_shift: int, generator: Generator) -> Tensor:
    """A batch shifted by one random number of pixels along each axis, black coming in.

    Args:
        image: Images, ``(B, C, H, W)``.
        max_shift: Largest shift each way.
        generator: Source of the shift, on the CPU.
    """
    height, width = image.shape[2:]
    top, left = torch.randint(2 * max_shift + 1, (2,), generator=generator).tolist()
    padded = F.pad(image, [max_shift] * 4)
    return padded[..., top : top + height, left : left + width]
