"""Which of StackedMNIST's 1,000 modes a model has, after testing."""

from collections.abc import Callable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vaebm.callbacks.draws import numbered_samples
from vaebm.checkpoints.reading import read_checkpoint
from vaebm.classifier_stage import ClassifierStage
from vaebm.configurable import class_path
from vaebm.datamodules import StackedMNISTDataModule
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.metrics import ClassCoverage
from vaebm.noise import RowGenerators
from vaebm.spaces import prior_noise
from vaebm.stage import Stage


class StackedModes(Callback):
    """Counts the modes of StackedMNIST in N samples, by a classifier of single digits (Table 5).

    After a test: ``test/modes`` of 1,000 and ``test/mode_kl``, the divergence of the samples' modes
    from those of the training images in nats; in stage 2 the VAE's own as well, with ``_vae``.
    Perfect samples have about 0.019 at N = 26,000, the plug-in bias. Processes share the work.

    Args:
        classifier: Checkpoint of ``vaebm fit --config mnist_classifier.yaml``.
        num_samples: N.
        num_steps: Steps of a chain, instead of the number it was trained with.
        batch_size: Samples that are drawn at once.
        sample_seed: Seed of the samples, which are those of `vaebm sample`.

    Raises:
        UsageError: If there is no such file, or it is no classifier of ten digits.
    """

    def __init__(
        self,
        classifier: str,
        num_samples: int = 26_000,
        num_steps: int | None = None,
        batch_size: int = 200,
        sample_seed: int = 0,
    ) -> None:
        if num_samples < 1 or batch_size < 1:
            raise UsageError("StackedModes needs num_samples and batch_size ≥ 1")
        self.classifier = load_classifier(classifier)
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.sample_seed = sample_seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other data and models before any work."""
        if stage != "test":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, StackedMNISTDataModule) or not isinstance(pl_module, Stage):
            raise UsageError("StackedModes needs StackedMNISTDataModule and a stage of vaebm")

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, classify, count and log."""
        assert isinstance(pl_module, Stage)
        draws: dict[str, Callable[[RowGenerators], Tensor]] = {
            "": lambda source: pl_module.sample(
                len(source.rows), generator=source, num_steps=self.num_steps
            )
        }
        if isinstance(pl_module, EBMStage):
            vae = pl_module.vae
            draws["_vae"] = lambda source: (
                vae.decode(prior_noise(vae, len(source.rows), generator=source)).image
            )
        for suffix, draw in draws.items():
            for name, value in self.coverage(trainer, pl_module.device, draw).items():
                pl_module.log(f"test/{name}{suffix}", value.float(), sync_dist=True)

    def coverage(
        self, trainer: Trainer, device: torch.device, draw: Callable[[RowGenerators], Tensor]
    ) -> dict[str, Tensor]:
        """Modes and divergence of the samples of one model."""
        train = trainer.datamodule.parts.train  # type: ignore[attr-defined]
        metric = ClassCoverage(train.tensors[1].bincount(minlength=1000)).to(device)
        classifier = self.classifier.to(device)
        for _, images in numbered_samples(
            trainer,
            draw,
            self.num_samples,
            device=device,
            seed=self.sample_seed,
            batch_size=self.batch_size,
        ):
            metric.update(modes_of(images.float(), classifier))
        found: dict[str, Tensor] = metric.compute()
        return found


def modes_of(images: Tensor, classifier: ClassifierStage) -> Tensor:
    """The modes 100a + 10b + c of stacked digits.

    Args:
        images: Images, ``(B, 3, 32, 32)`` in [0, 1].
        classifier: A classifier of single digits.

    Returns:
        Modes, ``(B,)``.
    """
    digits = classifier(images.clamp(0, 1).reshape(-1, 1, *images.shape[2:])).argmax(1)
    place = torch.tensor([100, 10, 1], device=digits.device)
    modes: Tensor = (digits.view(-1, 3) * place).sum(1)
    return modes


def load_classifier(path: str) -> ClassifierStage:
    """A trained classifier of single digits.

    Args:
        path: Its checkpoint.

    Raises:
        UsageError: If there is no such file, or it is of something else.
        DataError: If it is damaged.
    """
    checkpoint = read_checkpoint(path)
    stored = checkpoint["hyper_parameters"]
    facts = [stored.get(name) for name in ("_class_path", "num_classes", "image_shape")]
    if facts != [class_path(ClassifierStage), 10, [1, 32, 32]]:
        raise UsageError(f"{path} is no classifier of ten digits, as mnist_classifier trains it")
    arguments = {name: value for name, value in stored.items() if not name.startswith("_")}
    with torch.random.fork_rng(
        devices=[]
    ):  # first weights that do not matter must not change a training
        classifier = ClassifierStage(**arguments)
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.eval().requires_grad_(False)
