"""FID, Inception score and kernel distance during training and after testing."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import Metric

from vaebm.callbacks.draws import before_averaging, numbered_samples
from vaebm.callbacks.reference import Reference, features_of, reference_of
from vaebm.datamodules import ImageDataModule
from vaebm.errors import UsageError
from vaebm.metrics import FrechetDistance, InceptionScore, KernelDistance
from vaebm.metrics.inception import ImageFeatures, InceptionFeatures, fidelity
from vaebm.stage import Stage, images_of

Name = Literal["fid", "inception_score", "kid"]
SPLITS = 10  # of the Inception score
KID_IMAGES = 50_000  # real images of which KID's subsets are drawn: 0.4 GB of features


class SampleQuality(Callback):
    """Logs FID, Inception score and KID of N samples, as torchmetrics and torch-fidelity have them.

    Under ``val/`` while training and after `vaebm validate`, under ``test/`` after a test:
    ``fid_<N>``, ``inception_score_<N>`` and ``inception_score_std_<N>``, ``kid_<N>`` and
    ``kid_std_<N>``. Sample i is a function of (seed, i), the same as `vaebm sample` draws, for any
    number of processes, which share the work. With weight averaging the averaged weights are
    measured. Where every validation measures (``every_n_steps: 1``), a checkpoint callback can
    watch a figure, such as ``val/fid_10000``.

    Args:
        metrics: What to measure: ``fid``, ``inception_score``, ``kid``.
        num_samples: N, number of samples.
        every_n_steps: Training steps between two measurements, made at the validation that comes
            next; None measures after `vaebm validate` and `test` alone.
        num_steps: Steps of a chain, instead of the number it was trained with.
        batch_size: Samples that are drawn at once.
        reference: The real images: all of ``train`` or of ``test``, not mirrored; for KID the first
            50,000 of them.
        extractor: Network that gives features of images in [0, 1]: `ImageFeatures`, or features
            alone, ``(B, D)``, which allow no Inception score; a copy is used. None is Inception.
        weights: File with Inception's weights; None takes torch's usual cache, or downloads them.
        cache: Folder that keeps the real images' statistics; None computes them in each run.
        kid_subset_size: Images in a subset of KID.
        sample_seed: Seed of the samples.

    Raises:
        UsageError: If an argument makes no sense, there is no such file, or a library is missing.
        DataError: If the weights are damaged or cannot be downloaded.
    """

    def __init__(
        self,
        metrics: Sequence[Name] = ("fid", "inception_score"),
        num_samples: int = 10_000,
        every_n_steps: int | None = None,
        num_steps: int | None = None,
        batch_size: int = 100,
        reference: Literal["train", "test"] = "train",
        extractor: nn.Module | None = None,
        weights: str | None = None,
        cache: str | None = "~/.cache/vaebm",
        kid_subset_size: int = 1000,
        sample_seed: int = 0,
    ) -> None:
        if not metrics or not set(metrics) <= set(get_args(Name)):
            raise UsageError(f"metrics are some of {', '.join(get_args(Name))}, not {metrics}")
        if num_samples < 2 or batch_size < 1 or (every_n_steps is not None and every_n_steps < 1):
            raise UsageError(
                "SampleQuality needs num_samples ≥ 2, batch_size and every_n_steps ≥ 1"
            )
        if kid_subset_size < 2 or (num_steps is not None and num_steps < 1):
            raise UsageError("SampleQuality needs kid_subset_size ≥ 2 and num_steps ≥ 1")
        if reference not in ("train", "test"):
            raise UsageError(f"reference is {reference!r}, but 'train' or 'test' is due")
        self.metrics = tuple(metrics)
        self.num_samples = num_samples
        self.every_n_steps = every_n_steps
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.split = reference
        self.extractor = copy.deepcopy(extractor)
        self.weights = None if weights is None else str(Path(weights).expanduser())
        self.cache = None if cache is None else Path(cache).expanduser()
        self.kid_subset_size = kid_subset_size
        self.sample_seed = sample_seed
        self._measured = 0  # the training step of the last measurement
        self._reference: Reference | None = None

    @property
    def state_key(self) -> str:
        """Tells several of these callbacks from each other in a checkpoint."""
        facts = {"metrics": self.metrics, "num_samples": self.num_samples, "split": self.split}
        return self._generate_state_key(**facts)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to measure when the uninterrupted one would have."""
        return {"measured": self._measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        self._measured = state_dict["measured"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the network and try it, so that errors come before any work."""
        before_averaging(trainer, self)
        if stage not in ("fit", "validate", "test") or (stage == "fit" and not self.every_n_steps):
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not isinstance(pl_module, Stage):
            raise UsageError("SampleQuality needs a datamodule and a stage of vaebm")
        if len(pl_module.vae.image_shape) != 3:
            raise UsageError("SampleQuality is for images; of points ToyEvaluation knows more")
        self._require_enough(len(getattr(data.parts, self.split)), trainer.world_size)
        if {"inception_score", "kid"} & set(self.metrics):
            fidelity("metric_kid")
        if self.extractor is None:
            # Its first weights must not change the training.
            with torch.random.fork_rng(devices=[]):
                self.extractor = InceptionFeatures(self.weights)
        self.extractor.eval().requires_grad_(False)
        self._reference = None  # that of other data, if this callback was used before
        image = images_of(getattr(data.parts, self.split)[0])[None]
        features = features_of(self.extractor.cpu(), image)
        if "inception_score" in self.metrics and features.logits is None:
            raise UsageError("an Inception score needs an extractor that gives logits of classes")

    def _require_enough(self, num_real: int, world_size: int) -> None:
        subset = self.kid_subset_size if "kid" in self.metrics else 2
        parts = SPLITS if "inception_score" in self.metrics else 2
        for count, least, what in (
            (self.num_samples, max(subset, parts, world_size), "samples"),
            (num_real, max(subset, world_size), f"images of the {self.split} part"),
        ):
            if count < least:
                raise UsageError(f"{count} {what} are too few: these metrics need {least}")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, if it is due."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            every, step = self.every_n_steps, trainer.global_step
            if not every or step // every <= self._measured // every:
                return
            self._measured = step
        self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, prefix: str) -> None:
        figures = self.measure(trainer, pl_module)
        for name, value in figures.items():
            # Equal on all processes; Lightning would warn without sync_dist.
            label = f"{prefix}/{name}_{self.num_samples}"
            pl_module.log(label, value.float().to(pl_module.device), sync_dist=True)

    @torch.no_grad()
    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
        """Draw this process's share of the samples and compute the metrics of all."""
        assert self.extractor is not None
        assert isinstance(pl_module, Stage)
        extractor = self.extractor.to(pl_module.device)
        metrics = self._fresh_metrics(trainer, extractor)
        for numbers, images in numbered_samples(
            trainer,
            lambda source: pl_module.sample(
                len(source.rows), generator=source, num_steps=self.num_steps
            ),
            self.num_samples,
            device=pl_module.device,
            seed=self.sample_seed,
            batch_size=self.batch_size,
        ):
            update(metrics, features_of(extractor, images), numbers)
        figures: dict[str, Tensor] = {}
        for name, metric in metrics.items():
            value = metric.compute()
            values = value if isinstance(value, tuple) else (value,)
            figures |= dict(zip((name, f"{name}_std"), values, strict=False))
        return figures

    def _fresh_metrics(self, trainer: Trainer, extractor: nn.Module) -> dict[str, Metric]:
        """The metrics without samples."""
        fresh: dict[str, Metric] = {}
        if "inception_score" in self.metrics:
            fresh["inception_score"] = InceptionScore(SPLITS)
        if {"fid", "kid"} & set(self.metrics):
            reference = self._real_images(trainer, extractor)
            if "fid" in self.metrics:
                # Its sums go over processes, so that one process brings the real images.
                fresh["fid"] = distance_to(reference, counted=trainer.is_global_zero)
            if "kid" in self.metrics:
                fresh["kid"] = KernelDistance(reference.rows, subset_size=self.kid_subset_size)
        return {name: metric.to(trainer.strategy.root_device) for name, metric in fresh.items()}

    def _real_images(self, trainer: Trainer, extractor: nn.Module) -> Reference:
        """The statistics of the real images, made once in a run."""
        if self._reference is None:
            self._reference = reference_of(
                trainer,
                trainer.datamodule,  # type: ignore[attr-defined]
                self.split,
                extractor,
                keep=KID_IMAGES if "kid" in self.metrics else 0,
                cache=self.cache,
            )
        return self._reference


class _Given(nn.Identity):
    """Features that are computed already.

    Args:
        num_features: D.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def distance_to(reference: Reference, *, counted: bool) -> FrechetDistance:
    """A Fréchet distance of given features to real images.

    Args:
        reference: The real images.
        counted: Whether this process brings them; exactly one does.
    """
    metric = FrechetDistance(_Given(len(reference.total)), reset_real_features=False)
    if counted:
        metric.real_features_sum = reference.total
        metric.real_features_cov_sum = reference.outer
        metric.real_features_num_samples = torch.tensor(reference.num_images)
    return metric


def update(metrics: dict[str, Metric], features: ImageFeatures, numbers: Tensor) -> None:
    """Give samples to every metric.

    Args:
        metrics: The metrics by name.
        features: Features of B samples.
        numbers: Number of each sample, ``(B,)``.
    """
    for name, metric in metrics.items():
        if name == "fid":
            metric.update(features.pooled, real=False)
        elif name == "kid":
            metric.update(features.pooled, numbers)
        else:
            metric.update(features.logits, numbers)
