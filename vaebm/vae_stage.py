"""Stage 1: train a VAE on the evidence lower bound."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from math import log, prod
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from vaebm.errors import UsageError
from vaebm.evaluation import log_means
from vaebm.metrics.importance import importance_log_likelihood
from vaebm.models.base import VAE
from vaebm.models.recalibrate import recalibrate_batch_norm
from vaebm.noise import Purpose, generator_for, standard_normal
from vaebm.spaces import prior_noise
from vaebm.stage import Stage


class VAEStage(Stage):
    """Stage 1, the VAE: maximise E_q[log p(x|z)] − β KL(q(z|x) ‖ p(z)) − λ R.

    β grows linearly to 1 over the first part of training, so that latents are in use before the
    divergence can empty them. R is the VAE's penalty: of NVAE the spectral norms of its
    convolutions and the largest scale of each batch norm.

    ``bits_per_dim`` is −ELBO / (ln 2 · dimensions) of the density that the VAE models: with a
    Gaussian likelihood that of 2x − 1, which is 7.0 lower than one of 8-bit pixel values.

    Args:
        vae: The VAE to train.
        lr: Learning rate.
        lr_final: Learning rate at the last step, reached by a cosine; None keeps `lr` throughout.
        warmup_portion: Part of all training steps over which the learning rate grows from 0.
        optimizer: ``adam``, or ``adamax`` as NVAE is trained with.
        optimizer_eps: Term that keeps the optimiser's denominator from 0; 1e-3 for NVAE.
        betas: Decay rates of the optimiser's two moments.
        weight_decay: L2 penalty added to the gradient.
        kl_anneal_portion: Part of all training steps over which β grows, in [0, 1].
        kl_const_portion: Part of all training steps before β grows, in [0, 1].
        kl_const_coeff: Least value of β.
        kl_balance: While β < 1, weigh the groups' divergences by their size, so that each is used.
        penalty_weight: λ, weight of the VAE's penalty.
        penalty_weight_init: Value of λ at β = 0, from which it goes geometrically to
            `penalty_weight` at β = 1; None keeps it constant.
        num_importance_samples: Posterior samples of each test image for a tighter bound of log p(x)
            than the ELBO, logged by `vaebm test`; 0 leaves it out.
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
        warmup_portion: float = 0.0,
        optimizer: Literal["adam", "adamax"] = "adam",
        optimizer_eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        kl_anneal_portion: float = 0.3,
        kl_const_portion: float = 0.0,
        kl_const_coeff: float = 0.0,
        kl_balance: bool = False,
        penalty_weight: float = 0.0,
        penalty_weight_init: float | None = None,
        num_importance_samples: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            lr=lr,
            lr_final=lr_final,
            betas=betas,
            weight_decay=weight_decay,
            seed=seed,
            warmup_portion=warmup_portion,
        )
        if optimizer not in ("adam", "adamax"):
            raise UsageError(f"optimizer is {optimizer!r}, but 'adam' or 'adamax' is due")
        if penalty_weight_init is not None and penalty_weight_init <= 0:
            raise UsageError(f"penalty_weight_init is {penalty_weight_init}, but must be above 0")
        if not 0 <= warmup_portion <= 1:
            raise UsageError(f"warmup_portion is {warmup_portion}, but must lie in [0, 1]")
        self.vae = vae
        self.optimizer = optimizer
        self.optimizer_eps = optimizer_eps
        self.kl_anneal_portion = kl_anneal_portion
        self.kl_const_portion = kl_const_portion
        self.kl_const_coeff = kl_const_coeff
        self.kl_balance = kl_balance
        self.penalty_weight = penalty_weight
        self.penalty_weight_init = penalty_weight_init
        self.num_importance_samples = num_importance_samples
        self.store_hyperparameters()

    @property
    def title(self) -> str:
        """What the model is called in pictures and figures."""
        return "VAE"

    def make_optimizer(self) -> Optimizer:
        """Adam or Adamax on the VAE's parameters."""
        make = torch.optim.Adamax if self.optimizer == "adamax" else torch.optim.Adam
        return make(
            self.trained_parameters(),
            lr=self.lr,
            betas=self.betas,
            eps=self.optimizer_eps,
            weight_decay=self.weight_decay,
        )

    def kl_weight(self) -> float:
        """β at this step: max(min((step − s₀) / s₁, 1), kl_const_coeff).

        s₀ and s₁ are `kl_const_portion` and `kl_anneal_portion` of all steps.
        """
        total = self.total_steps()
        ramp = self.kl_anneal_portion * total
        if ramp <= 0:
            return 1.0
        grown = (self.global_step - self.kl_const_portion * total) / ramp
        return max(min(1.0, grown), self.kl_const_coeff)

    def penalty_coefficient(self, kl_weight: float) -> float:
        """λ at a value of β: exp((1 − β) log λ_init + β log λ)."""
        if self.penalty_weight_init is None or not self.penalty_weight:
            return self.penalty_weight
        start, end = self.penalty_weight_init, self.penalty_weight
        return float(start ** (1 - kl_weight) * end**kl_weight)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The annealed negative ELBO with its penalty, mean over the batch, in nats."""
        image = self.images_of(batch)
        terms = self.elbo_terms(image, self.training_generator(batch_idx))
        beta = self.kl_weight()
        kl = terms.kl
        if self.kl_balance and beta < 1:
            kl = kl * balance(kl.detach(), group_weights(self.vae.noise_shapes[:-1]))
        loss: Tensor = (beta * kl.sum(1) - terms.log_px).mean()
        coefficient = self.penalty_coefficient(beta)
        if coefficient:
            penalty = coefficient * self.vae.penalty()
            self.log("train/penalty", penalty)
            loss = loss + penalty
        self.require_finite(loss, image)
        self.log("train/elbo", terms.elbo.mean(), prog_bar=True)
        self.log("train/kl", terms.kl.sum(1).mean())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the ELBO in nats and bits per dimension."""
        self._log_elbo("val", self.images_of(batch), batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the ELBO in nats and bits per dimension, and the tighter bound if asked for."""
        image = self.images_of(batch)
        self._log_elbo("test", image, batch_idx)
        if self.num_importance_samples:
            bound = importance_log_likelihood(
                self.vae,
                image,
                self.num_importance_samples,
                generator=self.evaluation_generator(batch_idx, len(image)),
            )
            names = ("test/log_px_importance", "test/bits_per_dim_importance")
            self._log_bound(*names, bound, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The ELBO of every image, ``(B,)``."""
        image = self.images_of(batch)
        return self.log_likelihood(image, self.evaluation_generator(batch_idx, len(image)))

    def log_likelihood(self, image: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The ELBO of images; see `Stage.log_likelihood`."""
        return {"elbo": self.elbo_terms(image, generator).elbo}

    def _log_elbo(self, split: str, image: Tensor, batch_idx: int) -> None:
        noise = self.evaluation_generator(batch_idx, len(image))
        elbo = self.elbo_terms(image, noise).elbo
        self._log_bound(f"{split}/elbo", f"{split}/bits_per_dim", elbo, batch_idx)

    def _log_bound(self, nats: str, bits: str, bound: Tensor, batch_idx: int) -> None:
        """Log the mean of a bound of log p(x), ``(B,)`` in nats, under two names."""
        per_dim = -bound / (log(2) * self.vae.data_dim)
        log_means(self, {nats: bound, bits: per_dim}, batch_idx)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        generator: Generator | None = None,
        num_steps: int | None = None,
        mean: bool = False,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw from the VAE, which has no chain; see `Stage.sample`."""
        noise = prior_noise(self.vae, num_samples, generator=generator)
        decoded = self.vae.decode(noise, temperature=temperature)
        return decoded.mean if mean else decoded.image

    def recalibrate(self, passes: int, *, seed: int, temperature: float) -> None:
        """Renew the batch-norm statistics; see `Stage.recalibrate`."""
        places = ((Purpose.RECALIBRATION, seed, number) for number in range(passes))
        sources = (generator_for(*place, device=self.device) for place in places)
        noise = (prior_noise(self.vae, 16, generator=source) for source in sources)
        recalibrate_batch_norm(self.vae, noise, temperature=temperature)

    def panels(
        self, num_samples: int, *, generator: Generator | None, num_steps: int | None = None
    ) -> dict[str, Tensor]:
        """Samples for pictures and evaluation, by title."""
        return {self.title: self.sample(num_samples, generator=generator)}

    @torch.no_grad()
    def pictures_of(self, image: Tensor, *, generator: Generator | None) -> dict[str, Tensor]:
        """Reconstructions of images, where the VAE offers them."""
        dim = self.vae.latent_dim
        noise = standard_normal(len(image), dim, generator=generator, device=image.device)
        with suppress(UsageError):
            return {"reconstruction": self.vae.reconstruct(image, noise=noise)}
        return {}


def group_weights(shapes: Sequence[Sequence[int]]) -> Tensor:
    """α of each latent group: the size of its grid over the number of groups that share it.

    Relative to the smallest one: 4^i / n_i for a group of the i-th resolution with n_i groups.

    Args:
        shapes: Noise shape of each group, ``(L, h, w)``.

    Returns:
        The weights, ``(G,)``.
    """
    sizes = [prod(shape[1:]) for shape in shapes]
    numbers = Counter(sizes)
    weights = torch.tensor([size / numbers[size] for size in sizes])
    return weights / weights.min()


def balance(kl: Tensor, weights: Tensor) -> Tensor:
    """Coefficients that make the KL divergences of all latent groups count.

    c_g ∝ (mean |KL_g| + 0.01) / α_g with mean 1: a group that carries much may cost more, so that
    none is emptied to pay for the others.

    Args:
        kl: Divergences, ``(B, G)``.
        weights: α of each group, ``(G,)``.

    Returns:
        The coefficients, ``(G,)``.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020), appendix A.
    """
    size = (kl.abs().mean(0) + 0.01) / weights.to(kl)
    return size / size.mean()
