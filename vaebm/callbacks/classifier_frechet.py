"""Fréchet distances in the features of a classifier of the same data."""

from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from vaebm.callbacks.class_features import Distances, accuracy, classifier_of, labelled
from vaebm.callbacks.draws import before_averaging, draw_panels
from vaebm.errors import UsageError
from vaebm.models.classifier import SmallClassifier


class ClassifierFrechet(Callback):
    """Logs Fréchet distances to real images, where Inception is too large or not at hand.

    After a test: ``test/frechet_vae``, ``test/frechet_vaebm`` (of an energy on x alone
    ``test/frechet_ebm``) and what a perfect model of this data would reach,
    ``test/frechet_test_set``, or ``test/frechet_train_set`` if the reference is the test set. The
    features are those of a small classifier that is trained here on the labelled training images,
    always from the same seed, so that distances of different runs can be compared; its
    ``test/classifier_accuracy`` says how much the features are worth. With `validate` the same is
    measured at every validation, under ``val/``: for a sweep or a checkpoint callback to watch,
    with weight averaging of the averaged weights.

    Args:
        num_samples: Samples of each model.
        num_steps: Steps of a chain, instead of the number it was trained with.
        epochs: Epochs of the classifier.
        reference: The real images: ``train`` or ``test``.
        cache: File that keeps the classifier from one run to the next; None trains it each time.
        sample_seed: Seed of the samples.
        validate: Measure at validations too.
    """

    def __init__(
        self,
        num_samples: int = 1200,
        num_steps: int | None = None,
        epochs: int = 25,
        reference: Literal["train", "test"] = "train",
        cache: str | None = None,
        sample_seed: int = 1,
        validate: bool = False,
    ) -> None:
        if num_samples < 2:
            raise UsageError(f"num_samples is {num_samples}, but a distance needs at least 2")
        if reference not in ("train", "test"):
            raise UsageError(f"reference is {reference!r}, but 'train' or 'test' is due")
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.epochs = epochs
        self.reference = reference
        self.cache = cache
        self.sample_seed = sample_seed
        self.validate = validate
        self._classifier: SmallClassifier | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come before weight averaging; the data may be others than last time."""
        self._classifier = None
        before_averaging(trainer, self)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure if asked to, but not in the sanity check before training."""
        if self.validate and not trainer.sanity_checking:
            self._measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        self._measure(trainer, pl_module, "test")

    def _measure(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        """Train the classifier, measure and log; every rank computes the same."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        train = labelled(data.parts.train, pl_module.device)[0]
        test, labels = labelled(data.parts.test, pl_module.device)
        if self._classifier is None:
            self._classifier = classifier_of(data, pl_module.device, self.epochs, self.cache)
        classifier = self._classifier
        if self.reference == "train":
            distances = Distances(classifier, train)
            pl_module.log(f"{split}/frechet_test_set", distances.to(test))
        else:
            distances = Distances(classifier, test)
            pl_module.log(f"{split}/frechet_train_set", distances.to(train[: self.num_samples]))
        samples = draw_panels(
            pl_module,
            self.num_samples,
            num_steps=self.num_steps,
            seed=self.sample_seed,
            precision=trainer.precision_plugin.forward_context,
        )
        for title, images in samples.items():
            pl_module.log(f"{split}/frechet_{title.lower()}", distances.to(images))
        pl_module.log(f"{split}/classifier_accuracy", accuracy(classifier, test, labels))
