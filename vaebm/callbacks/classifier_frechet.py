"""Fréchet distances in the features of a classifier of the same data, after testing."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vaebm.callbacks.draws import draw_panels
from vaebm.errors import UsageError
from vaebm.metrics import FrechetDistance
from vaebm.models.classifier import FeatureExtractor, SmallClassifier, train_classifier


class ClassifierFrechet(Callback):
    """Logs Fréchet distances to the training images, for images too small for Inception.

    After a test: ``test/frechet_vae``, ``test/frechet_vaebm`` and ``test/frechet_test_set``, the
    floor that a perfect model of this data would reach. The features are those of a small
    classifier that is trained here on the labelled training images, always from the same seed, so
    that distances of different runs can be compared; its ``test/classifier_accuracy`` says how
    much the features are worth.

    Args:
        num_samples: Samples of each model.
        num_steps: Steps of a chain, instead of the number it was trained with.
        epochs: Epochs of the classifier.
    """

    def __init__(
        self, num_samples: int = 1200, num_steps: int | None = None, epochs: int = 25
    ) -> None:
        if num_samples < 2:
            raise UsageError(f"num_samples is {num_samples}, but a distance needs at least 2")
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.epochs = epochs

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train the classifier, measure and log; every rank computes the same."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        train, test = (
            _labelled(part, pl_module.device) for part in (data.parts.train, data.parts.test)
        )
        classifier = train_classifier(*train, num_classes=data.num_classes, epochs=self.epochs)
        sets = {"test_set": test[0], **self._samples(pl_module)}
        figures = _distances(classifier, train[0], sets)
        accuracy = (classifier(test[0]).argmax(1) == test[1]).float().mean()
        pl_module.log("test/classifier_accuracy", accuracy)
        pl_module.log_dict({f"test/frechet_{name}": value for name, value in figures.items()})

    def _samples(self, pl_module: LightningModule) -> dict[str, Tensor]:
        panels = draw_panels(pl_module, self.num_samples, num_steps=self.num_steps)
        return {title.lower(): images for title, images in panels.items()}


def _labelled(part: object, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images and labels of a part."""
    items = part[:]  # type: ignore[index]
    if len(items) < 2:
        raise UsageError("ClassifierFrechet needs labelled images")
    return items[0].to(device), items[1].to(device)


def _distances(
    classifier: SmallClassifier, real: Tensor, sets: dict[str, Tensor]
) -> dict[str, Tensor]:
    metric = FrechetDistance(FeatureExtractor(classifier), reset_real_features=False).to(
        real.device
    )
    metric.update(real, real=True)
    distances = {}
    for name, images in sets.items():
        metric.update(images, real=False)
        distances[name] = metric.compute().float()
        metric.reset()
    return distances
