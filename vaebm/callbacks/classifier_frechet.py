"""Fréchet distances in the features of a classifier of the same data, after testing."""

from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from vaebm.callbacks.class_features import Distances, accuracy, classifier_of, labelled
from vaebm.callbacks.draws import draw_panels
from vaebm.errors import UsageError


class ClassifierFrechet(Callback):
    """Logs Fréchet distances to real images, where Inception is too large or not at hand.

    After a test: ``test/frechet_vae``, ``test/frechet_vaebm`` (of an energy on x alone
    ``test/frechet_ebm``) and what a perfect model of this data would reach,
    ``test/frechet_test_set``, or ``test/frechet_train_set`` if the reference is the test set. The
    features are those of a small classifier that is trained here on the labelled training images,
    always from the same seed, so that distances of different runs can be compared; its
    ``test/classifier_accuracy`` says how much the features are worth.

    Args:
        num_samples: Samples of each model.
        num_steps: Steps of a chain, instead of the number it was trained with.
        epochs: Epochs of the classifier.
        reference: The real images: ``train`` or ``test``.
        cache: File that keeps the classifier from one run to the next; None trains it each time.
        sample_seed: Seed of the samples.
    """

    def __init__(
        self,
        num_samples: int = 1200,
        num_steps: int | None = None,
        epochs: int = 25,
        reference: Literal["train", "test"] = "train",
        cache: str | None = None,
        sample_seed: int = 1,
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

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train the classifier, measure and log; every rank computes the same."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        train = labelled(data.parts.train, pl_module.device)[0]
        test, labels = labelled(data.parts.test, pl_module.device)
        classifier = classifier_of(data, pl_module.device, self.epochs, self.cache)
        if self.reference == "train":
            distances = Distances(classifier, train)
            pl_module.log("test/frechet_test_set", distances.to(test))
        else:
            distances = Distances(classifier, test)
            pl_module.log("test/frechet_train_set", distances.to(train[: self.num_samples]))
        samples = draw_panels(
            pl_module,
            self.num_samples,
            num_steps=self.num_steps,
            seed=self.sample_seed,
            precision=trainer.precision_plugin.forward_context,
        )
        for title, images in samples.items():
            pl_module.log(f"test/frechet_{title.lower()}", distances.to(images))
        pl_module.log("test/classifier_accuracy", accuracy(classifier, test, labels))
