"""Stage 2: train an energy on top of a frozen VAE."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from lightning.pytorch import Callback
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from vaebm.adam_bound import bound_gradients
from vaebm.chain_potential import ChainPotential
from vaebm.checkpoints.chains import ChainCheckpoint
from vaebm.checkpoints.reading import load_vae
from vaebm.contrast import check_contrast, gap_loss, magnitude, squared_offset, squared_slope
from vaebm.distributions import at_least_float32
from vaebm.errors import UsageError
from vaebm.evaluation import log_means
from vaebm.models.base import VAE, Energy
from vaebm.samplers.base import Potential, Sampler, StepInfo
from vaebm.samplers.replay import ReplayBuffer
from vaebm.signs import chain_signs, energy_signs
from vaebm.spaces import Space, prior_noise
from vaebm.stage import Stage


class EBMStage(Stage):
    """Stage 2, the energy: h(x, z) ∝ p_θ(x, z) exp(−E(x)) with the VAE p_θ frozen.

    Minimises E(x_data) − E(x_model) + penalties, whose gradient is that of −log h(x): x_model are
    the ends of chains that `sampler` runs in `space`, started afresh or from `replay`. The VAE
    and its architecture come from the checkpoint of stage 1, and a checkpoint of this stage
    carries them on: sampling and evaluation need that one file.

    Args:
        energy: The energy network E to train.
        sampler: Transition kernel of the chains.
        space: Where the chains live.
        replay: Buffer of persistent chains; None starts all chains afresh.
        vae_checkpoint: Checkpoint of stage 1, or of stage 2 to take over its VAE.
        vae: The VAE itself instead of a checkpoint; checkpoints of this stage fill it in.
        lr: Learning rate of Adam.
        lr_final: Learning rate at the last step, reached by a cosine; None keeps `lr` throughout.
        betas: Decay rates of Adam's two moments; the published β₁ is 0.99.
        weight_decay: L2 penalty added to the gradient.
        spectral_weight: Weight of the energy's spectral penalty; 0.2 for CIFAR-10.
        magnitude_weight: Weight of mean E(x_data)² + E(x_model)², which bounds the energies.
        offset_weight: Weight of ¼ (mean E(x_data) + mean E(x_model))². The model does not depend on
            the constant of E and the paper's loss, which 0 is, does not hold it: it runs away, with
            weights that grow and chains that follow. 0.01 holds it.
        gradient_weight: Weight of mean ‖∂E/∂x‖² over data and samples, which slows the growth of
            slopes that chains cannot follow, and does not flatten E; steps take a fifth longer.
        gap_scale: τ in nats of the loss 2τ log(1 + exp(gap / τ)), whose gradient fades where chains
            end far above the data's energy (`gap_loss`); null is the paper's loss, the gap itself.
        contrast: Compare the energies of the data with those of chain ends as ``sample``, or as
            decoder ``mean``, not clamped, as published for all image sets but CIFAR-10.
        gradient_bound: Bound each gradient element by Adam's own state; see `bound_gradients`.
        data_init_batches: Batches that initialise the energy, if it is new and takes its first
            scales from data (`ResidualEnergy`); 0 leaves it as it is.
        compile: Compile the chains' gradient by ``torch.compile``, which takes a minute or more at
            each new batch size. On a GPU it is recorded as a CUDA graph with or without.
        seed: Seed of the noise; None takes the run's ``seed_everything``.

    Raises:
        UsageError: If no VAE is given, or an argument makes no sense.

    References:
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), section 3.
    """

    def __init__(
        self,
        energy: Energy,
        sampler: Sampler,
        space: Space,
        replay: ReplayBuffer | None = None,
        *,
        vae_checkpoint: str | None = None,
        vae: VAE | None = None,
        lr: float = 4e-5,
        lr_final: float | None = None,
        betas: tuple[float, float] = (0.99, 0.999),
        weight_decay: float = 3e-5,
        spectral_weight: float = 0.2,
        magnitude_weight: float = 0.0,
        offset_weight: float = 0.0,
        gradient_weight: float = 0.0,
        gap_scale: float | None = None,
        contrast: Literal["sample", "mean"] = "sample",
        gradient_bound: bool = True,
        data_init_batches: int = 5,
        compile: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            lr=lr, lr_final=lr_final, betas=betas, weight_decay=weight_decay, seed=seed
        )
        if vae is None and vae_checkpoint is None:
            raise UsageError(
                "stage 2 needs a trained VAE: --model.vae_checkpoint PATH of a stage-1 checkpoint"
            )
        if replay is not None and not sampler.uses_start:
            raise UsageError(f"{type(sampler).__name__} ignores where a chain starts: no replay")
        weights = (spectral_weight, magnitude_weight, offset_weight, gradient_weight)
        check_contrast(contrast, gap_scale, (*weights, data_init_batches), space.includes_vae)
        self.energy = energy
        self.sampler = sampler
        self.space = space
        self.replay = replay
        self.vae = (load_vae(str(vae_checkpoint)) if vae is None else vae).requires_grad_(False)
        self.vae.eval()
        self.chain_potential = ChainPotential(compile=compile)
        self.spectral_weight = spectral_weight
        self.magnitude_weight = magnitude_weight
        self.offset_weight = offset_weight
        self.gradient_weight = gradient_weight
        self.gap_scale = gap_scale
        self.contrast = contrast
        self.gradient_bound = gradient_bound
        self.data_init_batches = data_init_batches
        self.init_args["vae"] = self.vae  # stored as data: the checkpoint stands alone
        self.store_hyperparameters()

    @property
    def title(self) -> str:
        """What the model is called in pictures and figures."""
        return "VAEBM" if self.space.includes_vae else "EBM"

    @property
    def decoder(self) -> VAE:
        """The VAE as chains use it: the same generator, faster and without encoder."""
        return self.chain_potential.networks.decoder_of(self.vae)

    def energies(self, image: Tensor) -> Tensor:
        """E of images, ``(B,)``, in float32 or wider also where the network runs in bf16."""
        return at_least_float32(self.energy(image))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of everything but the VAE, which stays in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        return self

    @torch.no_grad()
    def setup(self, stage: str) -> None:
        """Check that the parts fit together, then initialise a new energy by data."""
        super().setup(stage)
        self.energy.require_shape(self.vae.image_shape)
        batch_size = getattr(getattr(self.trainer, "datamodule", None), "batch_size", 0)
        if stage == "fit" and self.replay is not None:
            self.replay.require_capacity(batch_size)
        if stage == "fit" and self.data_init_batches and self.energy.needs_data:
            self.energy.initialise(self.first_images(self.data_init_batches))

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of the energy."""
        return self.energy.parameters()

    def configure_callbacks(self) -> list[Callback]:
        """Those of every training; checkpoints with the persistent chains beside them."""
        chains = [ChainCheckpoint(self.replay)] if self.replay is not None else []
        return [*super().configure_callbacks(), *chains]

    @torch.no_grad()
    def negatives(self, batch_size: int, generator: Generator) -> tuple[Tensor, Tensor, StepInfo]:
        """Draw x_model for the contrast by the training chains.

        Args:
            batch_size: Number of chains B.
            generator: Source of the noise.

        Returns:
            Images ``(B, C, H, W)`` or points ``(B, 2)``, the chains' ends ``(B, D)`` and their
            infos ``(K, B)``.
        """
        decoder = self.decoder
        start = self.space.start(decoder, batch_size, generator=generator)
        if self.replay is not None:
            start = self.replay.mix(start, self.global_step, generator=generator)
        state, info = self.run_chains(start, generator)
        if self.replay is not None:
            self.replay.push(state)
        return self.space.image(decoder, state, mean=self.contrast == "mean"), state, info

    def run_chains(
        self, start: Tensor, generator: Generator | None, num_steps: int | None = None
    ) -> tuple[Tensor, StepInfo]:
        """Move chains from ``(B, D)``: their ends ``(B, D)`` and infos ``(K, B)``."""
        with self.frozen_potential() as potential:
            return self.sampler.run(potential, start, num_steps=num_steps, generator=generator)

    @contextmanager
    def frozen_potential(self) -> Iterator[Potential]:
        """U of the chains, for a time in which weights do not change: each is computed once."""
        yield self.chain_potential.of(self.space, self.vae, self.energy)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The contrastive loss with its penalties."""
        x_data = self.images_of(batch)
        x_model, state, info = self.negatives(len(x_data), self.training_generator(batch_idx))
        images = torch.cat([x_data, x_model]).requires_grad_(self.gradient_weight > 0)
        energies = self.energies(images)
        energy_data, energy_model = energies.chunk(2)
        energy_gap = energy_data.mean() - energy_model.mean()
        penalty = self.penalty(energy_data, energy_model)
        if self.gradient_weight:
            penalty = penalty + self.gradient_weight * squared_slope(energies, images)
        loss: Tensor = gap_loss(energy_gap, self.gap_scale) + penalty
        self.require_finite(loss, x_data, state, self.sampler)
        self.log("train/energy_gap", energy_gap, prog_bar=True)
        self.log("train/penalty", penalty)
        signs = energy_signs(energy_data, energy_model)
        signs |= chain_signs(self.space.latents(self.vae, state), info)
        self.log_dict({f"train/{name}": value for name, value in signs.items()})
        return loss

    def penalty(self, energy_data: Tensor, energy_model: Tensor) -> Tensor:
        """Weighted sum of the penalties but that on slopes; zero weights cost nothing."""
        total = energy_data.new_zeros(())
        if self.spectral_weight:
            total = total + self.spectral_weight * self.energy.penalty()
        if self.magnitude_weight:
            total = total + self.magnitude_weight * magnitude(energy_data, energy_model)
        if self.offset_weight:
            total = total + self.offset_weight * squared_offset(energy_data, energy_model)
        return total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Bound the gradient by Adam's state, then clip it if the trainer says so."""
        if self.gradient_bound:
            bound_gradients(optimizer)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the energy of held-out images, and the gap to fresh chains on the first batch."""
        x_data = self.images_of(batch)
        energy_data = self.energies(x_data)
        log_means(self, {"val/energy_data": energy_data}, batch_idx)
        if batch_idx == 0:
            noise = self.evaluation_generator(batch_idx, len(x_data))
            energy_model = self.energies(self.sample(len(x_data), generator=noise))
            log_means(self, {"val/energy_gap": energy_data - energy_model}, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean ELBO, energy and unnormalised log-likelihood of test images."""
        terms = self.predict_step(batch, batch_idx)
        log_means(self, {f"test/{name}": value for name, value in terms.items()}, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """ELBO, energy and unnormalised log-likelihood of every image, each ``(B,)``."""
        image = self.images_of(batch)
        return self.log_likelihood(image, self.evaluation_generator(batch_idx, len(image)))

    def log_likelihood(self, image: Tensor, generator: Generator) -> dict[str, Tensor]:
        """The bound ELBO(x) − E(x) ≤ log h(x) + log Z and its two parts (Eq. 6).

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1], or points ``(B, 2)``.
            generator: Source of the posterior noise.

        Returns:
            ``elbo``, ``energy`` and, unless the space leaves the VAE out of the model,
            ``elbo_minus_energy`` in nats, each ``(B,)``.
        """
        elbo, energy = self.elbo_terms(image, generator).elbo, self.energies(image)
        terms = {"elbo": elbo, "energy": energy}
        return {**terms, "elbo_minus_energy": elbo - energy} if self.space.includes_vae else terms

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
        """Draw from the model by chains that start afresh; see `Stage.sample`."""
        if temperature != 1:
            raise UsageError("a temperature is for samples of the VAE, i.e. of stage 1")
        start = self.space.start(self.decoder, num_samples, generator=generator)
        state, _ = self.run_chains(start, generator, num_steps)
        return self.space.image(self.decoder, state, mean=mean)

    @torch.no_grad()
    def panels(
        self, num_samples: int, *, generator: Generator | None, num_steps: int | None = None
    ) -> dict[str, Tensor]:
        """Samples for pictures and evaluation, by title: the VAE's and this model's."""
        vae = self.decoder.decode(prior_noise(self.vae, num_samples, generator=generator)).image
        model = self.sample(num_samples, generator=generator, num_steps=num_steps)
        return {"VAE": vae, self.title: model}
