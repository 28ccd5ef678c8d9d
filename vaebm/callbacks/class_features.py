"""A classifier of the data at hand as feature extractor, kept in a file if asked for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaebm.checkpoints.atomic import write_atomically
from vaebm.checkpoints.reading import load_data
from vaebm.errors import DataError, UsageError
from vaebm.metrics import FrechetDistance
from vaebm.models.classifier import FeatureExtractor, SmallClassifier, train_classifier

IRRELEVANT = ("root", "batch_size", "num_workers", "download")  # of a datamodule's options
BATCH = 500  # images at once: the activations of a whole data set would not fit in memory


def labelled(part: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """All images and labels of a part of the data."""
    items = part[:]
    if len(items) < 2:
        raise UsageError("Fréchet distances in a classifier's features need labelled images")
    return items[0].to(device), items[1].to(device)


def classifier_of(
    data: Any, device: torch.device, epochs: int, cache: str | None
) -> SmallClassifier:
    """The classifier of a datamodule's training images.

    Args:
        data: The datamodule.
        device: Where it is trained.
        epochs: Passes over the images.
        cache: File to read it from, or to keep it in where there is none yet.
    """
    path = Path(cache) if cache else None
    images, labels = labelled(data.parts.train, device)
    settings = {
        "data": type(data).__name__,
        "shape": list(images.shape),
        "num_classes": data.num_classes,
        "epochs": epochs,
        "options": {k: v for k, v in data.hparams.items() if is_relevant(k)},
    }
    if path and path.exists():
        return _read(path, settings).to(device)
    classifier = train_classifier(images, labels, num_classes=data.num_classes, epochs=epochs)
    if path:
        write_atomically(path, {**settings, "weights": classifier.state_dict()})
    return classifier


def is_relevant(option: str) -> bool:
    """Whether an option of a datamodule says what its images are; LightningCLI adds some with _."""
    return not option.startswith("_") and option not in IRRELEVANT


def _read(path: Path, settings: dict[str, Any]) -> SmallClassifier:
    stored = load_data(path)
    found = {k: stored.get(k) for k in settings} if isinstance(stored, dict) else stored
    if found != settings:
        raise DataError(
            f"{path} keeps the classifier of other images or epochs ({found}, not {settings}): "
            "remove it or name another cache"
        )
    classifier = SmallClassifier(settings["shape"][1:], settings["num_classes"])
    classifier.load_state_dict(stored["weights"])
    return classifier.eval().requires_grad_(False)


def accuracy(classifier: SmallClassifier, images: Tensor, labels: Tensor) -> Tensor:
    """Share of images whose class is recognised, a scalar."""
    classes = torch.cat([classifier(batch).argmax(1) for batch in images.split(BATCH)])
    return (classes == labels).float().mean()


class Distances:
    """Fréchet distances to one set of images in a classifier's features.

    Args:
        classifier: The classifier.
        reference: The images to compare with, ``(N, C, H, W)`` in [0, 1].
    """

    def __init__(self, classifier: SmallClassifier, reference: Tensor) -> None:
        self.metric = FrechetDistance(FeatureExtractor(classifier), reset_real_features=False)
        self.metric.to(reference.device)
        self._update(reference, real=True)

    def to(self, images: Tensor) -> Tensor:
        """The distance of some images to the reference, a scalar."""
        self.metric.reset()
        self._update(images.clamp(0, 1), real=False)  # as they would be written to a file
        return self.metric.compute().float()

    def _update(self, images: Tensor, *, real: bool) -> None:
        for batch in images.split(BATCH):
            self.metric.update(batch, real=real)
