"""Stage 1: train a VAE on the evidence lower bound."""

from math import log
from typing import Any

import torch
from torch import Generator, Tensor

from vaebm.models.base import VAE
from vaebm.spaces import prior_noise
from vaebm.stage import Stage


class VAEStage(Stage):
    """Stage 1, the VAE: maximise E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z)).

    β grows linearly from 0 to 1 over the first part of training, so that latents are in use
    before the divergence can empty them.

    ``bits_per_dim`` is −ELBO / (ln 2 · dimensions) of the density that the VAE models, for images
    that of 2x − 1: 7.0 lower than that of 8-bit pixel values.

    Args:
        vae: The VAE to train.
        lr: Learning rate of Adam.
        lr_final: Learning rate at the last step, reached by a cosine; None keeps `lr` throughout.
        betas: Decay rates of Adam's two moments.
        weight_decay: L2 penalty added to the gradient.
        kl_anneal_portion: Part of all training steps over which β grows, in [0, 1].
        seed: Seed of the noise; None takes the run's ``seed_everything``.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020).
    """

    def __init__(
        self,
        vae: VAE,
        *,
        lr: float = 1e-3,
        lr_final: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        kl_anneal_portion: float = 0.3,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            lr=lr, lr_final=lr_final, betas=betas, weight_decay=weight_decay, seed=seed
        )
        self.vae = vae
        self.kl_anneal_portion = kl_anneal_portion
        self.store_hyperparameters()

    @property
    def title(self) -> str:
        """What the model is called in pictures and figures."""
        return "VAE"

    def kl_weight(self) -> float:
        """β at this step: min(1, step / (kl_anneal_portion · all steps))."""
        ramp = self.kl_anneal_portion * self.total_steps()
        return min(1.0, self.global_step / ramp) if ramp > 0 else 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The annealed negative ELBO, mean over the batch, in nats."""
        image = self.images_of(batch)
        terms = self.elbo_terms(image, self.training_generator(batch_idx))
        loss: Tensor = (self.kl_weight() * terms.kl.sum(1) - terms.log_px).mean()
        self.require_finite(loss, image)
        self.log("train/elbo", terms.elbo.mean(), prog_bar=True)
        self.log("train/kl", terms.kl.sum(1).mean())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the ELBO in nats and bits per dimension."""
        self._log_elbo("val", batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the ELBO in nats and bits per dimension."""
        self._log_elbo("test", batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The ELBO of every image, ``(B,)``."""
        image = self.images_of(batch)
        return {"elbo": self.elbo_terms(image, self.evaluation_generator(batch_idx)).elbo}

    def _log_elbo(self, split: str, batch: Any, batch_idx: int) -> None:
        image = self.images_of(batch)
        elbo = self.elbo_terms(image, self.evaluation_generator(batch_idx)).elbo.mean()
        self.log(f"{split}/elbo", elbo, batch_size=len(image), sync_dist=True)
        bits = -elbo / (log(2) * image[0].numel())
        self.log(f"{split}/bits_per_dim", bits, batch_size=len(image), sync_dist=True)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        generator: Generator | None = None,
        num_steps: int | None = None,
        mean: bool = False,
    ) -> Tensor:
        """Draw from the VAE, which has no chain; see `Stage.sample`."""
        decoded = self.vae.decode(prior_noise(self.vae, num_samples, generator=generator))
        return decoded.mean if mean else decoded.image

    def panels(
        self, num_samples: int, *, generator: Generator | None, num_steps: int | None = None
    ) -> dict[str, Tensor]:
        """Samples for pictures and evaluation, by title."""
        return {self.title: self.sample(num_samples, generator=generator)}
