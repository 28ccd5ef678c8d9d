"""What both training stages share: optimiser, random streams, samples."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from itertools import islice
from math import cos, pi
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from vaebm.errors import DataError, Diverged, UsageError
from vaebm.evaluation import evaluation_loader, image_numbers
from vaebm.models.base import VAE, ElboTerms
from vaebm.noise import Purpose, RowGenerators, generator_for, run_seed, standard_normal
from vaebm.stored_module import StoredModule


class Stage(StoredModule, ABC):
    """A training stage: optimiser, warm-up and cosine decay, reproducible noise, samples.

    Noise is drawn from generators made of (seed, rank, step), so that ranks differ and a resumed
    run draws what the uninterrupted one would have drawn.

    Args:
        lr: Learning rate.
        lr_final: Learning rate at the last step, reached by a cosine; None keeps `lr` throughout.
        betas: Decay rates of the optimiser's two moments.
        weight_decay: L2 penalty added to the gradient.
        seed: Seed of this stage's noise; None takes the run's ``seed_everything``.
        warmup_portion: Part of all training steps over which the learning rate grows from 0.
    """

    vae: VAE

    def __init__(
        self,
        *,
        lr: float,
        lr_final: float | None,
        betas: tuple[float, float],
        weight_decay: float,
        seed: int | None,
        warmup_portion: float = 0.0,
    ) -> None:
        super().__init__()
        self.lr = lr
        self.lr_final = lr_final
        self.betas = betas
        self.weight_decay = weight_decay
        self.seed = run_seed() if seed is None else seed
        self.warmup_portion = warmup_portion

    @property
    @abstractmethod
    def title(self) -> str:
        """What the model is called in pictures and figures."""

    @abstractmethod
    def sample(
        self,
        num_samples: int,
        *,
        generator: Generator | None = None,
        num_steps: int | None = None,
        mean: bool = False,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw from the model.

        Args:
            num_samples: Number of samples N.
            generator: Source of the noise.
            num_steps: Steps of a chain, where there is one, instead of the sampler's own number.
            mean: Return decoder means instead of samples.
            temperature: Factor on the scale of every latent group, stage 1 only.

        Returns:
            Images, ``(N, C, H, W)`` in [0, 1], or points ``(N, 2)``.
        """

    @abstractmethod
    def panels(
        self, num_samples: int, *, generator: Generator | None, num_steps: int | None = None
    ) -> dict[str, Tensor]:
        """Samples of every model that the stage holds, by title; see `sample`."""

    @abstractmethod
    def log_likelihood(self, image: Tensor, generator: Generator) -> dict[str, Tensor]:
        """What the stage knows of the likelihood of images.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1], or points ``(B, 2)``.
            generator: Source of the posterior noise.

        Returns:
            ``elbo`` in nats, ``(B,)``, and in stage 2 more.
        """

    def pictures_of(self, image: Tensor, *, generator: Generator | None) -> dict[str, Tensor]:
        """What the stage makes of given images, by title; nothing unless a stage says otherwise."""
        return {}

    def recalibrate(self, passes: int, *, seed: int, temperature: float) -> None:
        """Renew the batch-norm statistics of the VAE by those of its own samples.

        Args:
            passes: Batches of 16 samples.
            seed: Seed of their noise.
            temperature: Factor on the scale of every latent group.

        Raises:
            UsageError: If the stage does not sample the VAE alone.
        """
        raise UsageError("--recalibrations is for samples of the VAE, i.e. of stage 1")

    def training_generator(self, batch_idx: int = 0) -> Generator:
        """The noise of this rank for one batch of a step; accumulation takes several a step."""
        place = (Purpose.TRAINING, self.seed, self.global_rank, self.global_step, batch_idx)
        return generator_for(*place, device=self.device)

    def evaluation_generator(self, batch_idx: int, size: int) -> RowGenerators:
        """The noise of one batch of validation, test or prediction.

        Each image has noise of its own, so that figures depend neither on the batch size nor on
        the number of processes.
        """
        numbers = image_numbers(evaluation_loader(self.trainer), batch_idx, size)
        return RowGenerators(self.seed, numbers, self.device, Purpose.EVALUATION)

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that this stage trains."""
        return (p for p in self.parameters() if p.requires_grad)

    def total_steps(self) -> int:
        """Optimiser steps of the whole training.

        Raises:
            UsageError: If the training has no set end.
        """
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UsageError(
                "learning-rate and KL schedules need a trainer.max_steps or max_epochs"
            )
        return max(1, int(steps))

    def setup(self, stage: str) -> None:
        """Refuse precisions that would round the chains, or that noise and data do not have."""
        super().setup(stage)
        precision = self.trainer.precision
        if precision in ("16-true", "bf16-true", "transformer-engine-float16"):
            raise UsageError(f"precision {precision} would round the chains: use bf16-mixed")
        if precision == "64-true":
            raise UsageError("noise and images are float32: use precision 32-true, not 64-true")

    def first_images(self, batches: int) -> Tensor:
        """Training images of some batches, before Lightning makes its loaders.

        Raises:
            UsageError: If there is no datamodule to take them from.
        """
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            raise UsageError(
                f"{type(self).__name__} initialises a network by data of a LightningDataModule: "
                "train with one, or set data_init_batches to 0"
            )
        images = [self.images_of(batch) for batch in islice(data.train_dataloader(), batches)]
        return torch.cat(images).to(self.device)

    def elbo_terms(self, image: Tensor, generator: Generator) -> ElboTerms:
        """The evidence lower bound of images with posterior noise from a generator.

        Raises:
            UsageError: If the VAE of a plug-in gives anything but a value for each image.
        """
        dim = self.vae.latent_dim
        noise = standard_normal(len(image), dim, generator=generator, device=image.device)
        terms = self.vae.elbo(image, noise=noise)
        size, shapes = len(image), (tuple(terms.log_px.shape), tuple(terms.kl.shape))
        if shapes[0] != (size,) or shapes[1][:1] != (size,) or len(shapes[1]) != 2:
            raise UsageError(
                f"{type(self.vae).__name__}.elbo of {size} images gave log_px and kl of "
                "{} and {}, but (B,) and (B, L) are due".format(*shapes)
            )
        return terms

    def make_optimizer(self) -> Optimizer:
        """Adam on the trained parameters."""
        return torch.optim.Adam(
            self.trained_parameters(),
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, with warm-up and cosine if they are asked for."""
        optimizer = self.make_optimizer()
        if self.lr_final is None and not self.warmup_portion:
            return optimizer
        total = self.total_steps()
        schedule = partial(
            lr_factor,
            total=total,
            warmup=self.warmup_portion * total,
            final=1.0 if self.lr_final is None else self.lr_final / self.lr,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def images_of(self, batch: Any) -> Tensor:
        """The images of a batch, of the shape that the VAE is made for."""
        images = images_of(batch)
        if images.shape[1:] != self.vae.image_shape:
            raise UsageError(
                f"the data are of shape {tuple(images.shape[1:])}, but "
                f"{type(self.vae).__name__} is made for {tuple(self.vae.image_shape)}"
            )
        return images

    def require_finite(
        self, loss: Tensor, batch: Tensor, chains: Tensor | None = None, sampler: object = None
    ) -> None:
        """Stop before a NaN reaches the weights, and say whose fault it is."""
        if loss.isfinite():
            return
        if not batch.isfinite().all():
            raise DataError(f"the training batch of step {self.global_step} holds NaN or infinity")
        what = f"the loss of step {self.global_step} is {loss.item()}"
        if chains is not None and (lost := int((~chains.isfinite()).any(1).sum())):
            name = type(sampler).__name__
            what += f", {lost} of {len(chains)} chains of {name} ended at NaN or infinity"
        raise Diverged(
            f"training diverged: {what}; "
            "the last checkpoint is sound, lower the learning rate or the step size"
        )


def lr_factor(step: int, *, total: int, warmup: float, final: float) -> float:
    """The learning rate at a step, relative to its largest value.

    Linear from 0 over the first `warmup` steps, then a cosine down to `final` at step `total`.

    Args:
        step: Steps taken, from 0.
        total: Steps of the whole training.
        warmup: Steps of the warm-up.
        final: Value at the end.
    """
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + cos(pi * progress))


def images_of(batch: Any) -> Tensor:
    """The images of a batch that is a tensor or starts with one, as with (image, label)."""
    images: Tensor = batch if isinstance(batch, Tensor) else batch[0]
    return images
