"""The likelihood of a VAEBM by annealed importance sampling."""

import warnings
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from vaebm.annealing import Annealed, AnnealedPath, annealed_weights, sigmoid_betas
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.evaluation import batches_of_process
from vaebm.metrics import AnnealedPartition
from vaebm.metrics.importance import importance_log_likelihood
from vaebm.models.layers import cached_weights
from vaebm.noise import Purpose, RowGenerators, generator_for, uniform
from vaebm.samplers.base import Sampler
from vaebm.samplers.hmc import HMCSampler
from vaebm.samplers.resampling import normalised, systematic_choice
from vaebm.sampling import gather
from vaebm.spaces import NoiseSpace, prior_noise


class Unnormalised(NamedTuple):
    """Mean of log p_θ(x) − E(x) over images, and its standard error."""

    mean: Tensor
    error: Tensor


class AnnealedLikelihood(Callback):
    """Estimates log Z and with it log h(x) = log p_θ(x) − E(x) − log Z of test images (Eq. 5).

    After a test, in nats: ``test/ais_log_z`` with its standard error ``test/ais_log_z_error`` and
    the number of chains that count, ``test/ais_log_z_ess``, from chains that go from the VAE's
    prior to the model; ``test/ais_log_z_upper`` with ``test/ais_log_z_upper_error`` from chains
    that go back. Chains that are too short leave a gap between the two. Of the test images:
    ``test/log_px_importance``, the importance-weighted bound of log p_θ(x), and ``test/log_h``,
    with the standard error ``test/log_h_error`` that images and Z leave; ``test/log_h_lower`` has
    the upper log Z instead. ``test/ais_accept_prob`` is the mean acceptance on the way up.

    The chains that go back start where those that went up have ended, resampled by their weights.
    The upper figure is a bound as far as these are samples of the model.

    Args:
        sampler: Kernel at each temperature, best one with a Metropolis test; None is
            `HMCSampler` with its defaults.
        num_temperatures: Steps K from prior to model.
        num_chains: Chains in each direction, at least 2.
        num_images: Test images, or fewer if there are fewer.
        num_importance_samples: Posterior samples of each image for log p_θ(x).
        batch_size: Chains or images at once.
        go_back: Whether chains go back as well.
        seed: Seed of all noise.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        num_temperatures: int = 500,
        num_chains: int = 200,
        num_images: int = 1000,
        num_importance_samples: int = 100,
        batch_size: int = 100,
        go_back: bool = True,
        seed: int = 1,
    ) -> None:
        if min(num_temperatures, num_importance_samples, batch_size, num_images) < 1:
            raise UsageError("AnnealedLikelihood needs numbers of at least 1")
        if num_chains < 2:
            raise UsageError(f"num_chains is {num_chains}, but at least 2 chains are due")
        self.sampler = HMCSampler() if sampler is None else sampler
        self.num_temperatures = num_temperatures
        self.num_chains = num_chains
        self.num_images = num_images
        self.num_importance_samples = num_importance_samples
        self.batch_size = batch_size
        self.go_back = go_back
        self.seed = seed

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the chains, weigh, log; ranks share the chains and the images among them."""
        stage = self.checked(trainer, pl_module)
        figures, log_h = self.images(trainer, stage)
        # Every rank has the weights of all.
        partition = AnnealedPartition(sync_on_compute=False).to(stage.device)
        up = self.annealed(trainer, stage)
        partition.update(up.log_weight)
        if self.go_back:
            start = self.model_samples(up)
            partition.update(self.annealed(trainer, stage, start).log_weight, down=True)
        log_z = partition.compute()
        figures |= {f"ais_{name}": value for name, value in log_z.items()}
        figures["log_h"] = log_h.mean - log_z["log_z"]
        figures["log_h_error"] = log_h.error.hypot(log_z["log_z_error"])
        if self.go_back:
            figures["log_h_lower"] = log_h.mean - log_z["log_z_upper"]
        if up.accept_prob.isfinite().all():
            figures["ais_accept_prob"] = up.accept_prob.mean()
        pl_module.log_dict({f"test/{name}": float(value) for name, value in figures.items()})

    def checked(self, trainer: Trainer, pl_module: LightningModule) -> EBMStage:
        """The stage, if its chains live in the VAE's noise."""
        space = pl_module.space if isinstance(pl_module, EBMStage) else None
        if not (isinstance(space, NoiseSpace) and space.prior == "noise"):
            raise UsageError(
                "AnnealedLikelihood is for stage 2 with chains in NoiseSpace(prior='noise'): "
                "elsewhere the annealing does not start at a known density"
            )
        if trainer.datamodule is None:  # type: ignore[attr-defined]
            raise UsageError("AnnealedLikelihood takes test images from a datamodule: give one")
        assert isinstance(pl_module, EBMStage)
        if not self.sampler.leaves_target:
            name = type(self.sampler).__name__
            warnings.warn(
                f"{name} does not leave its target exactly as it is: log Z will be biased",
                stacklevel=2,
            )
        return pl_module

    def annealed(self, trainer: Trainer, stage: EBMStage, start: Tensor | None = None) -> Annealed:
        """The chains of all ranks, in one order: from the prior up, or down from `start`."""
        betas = sigmoid_betas(self.num_temperatures).to(stage.device)
        betas = betas if start is None else betas.flip(0)
        purpose = Purpose.ANNEALING if start is None else Purpose.ANNEALING_DOWN
        parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in Annealed._fields]
        for numbers in batches_of_process(trainer, self.num_chains, self.batch_size):
            generator = RowGenerators(self.seed, numbers, stage.device, purpose)
            with stage.frozen_potential() as potential:
                if start is None:
                    begin = prior_noise(stage.vae, len(numbers), generator=generator)
                else:
                    begin = start[numbers.start : numbers.stop]
                path = AnnealedPath(potential, begin.dtype)
                chains = annealed_weights(path, begin, betas, self.sampler, generator=generator)
            for part, field in zip(parts, chains, strict=True):
                part.append((torch.tensor(numbers), field.cpu()))
        return Annealed(*(gather(part).to(stage.device) for part in parts))

    def model_samples(self, up: Annealed) -> Tensor:
        """The ends of all chains, resampled by their weights; the same on every rank."""
        device = up.state.device
        generator = generator_for(Purpose.ANNEALING_DOWN, self.seed, device=device)
        offset = uniform(1, generator=generator, device=device)[0]
        chosen = systematic_choice(normalised(up.log_weight), len(up.state), offset)
        return up.state[chosen]

    def images(self, trainer: Trainer, stage: EBMStage) -> tuple[dict[str, Tensor], Unnormalised]:
        """The mean of log p_θ over test images, and that of log p_θ − E."""
        test = trainer.datamodule.parts.test  # type: ignore[attr-defined]
        total = min(self.num_images, len(test))
        log_px, log_h, square = (
            MeanMetric().set_dtype(torch.float64).to(stage.device) for _ in range(3)
        )
        for indices in batches_of_process(trainer, total, self.batch_size):
            image = torch.stack([test[index][0] for index in indices]).to(stage.device)
            generator = RowGenerators(self.seed, indices, stage.device, Purpose.IMPORTANCE)
            with cached_weights(stage.vae):
                bound = importance_log_likelihood(
                    stage.vae, image, self.num_importance_samples, generator=generator
                ).double()
            log_px.update(bound)
            unnormalised = bound - stage.energies(image)
            log_h.update(unnormalised)
            square.update(unnormalised**2)
        mean = log_h.compute()
        variance = (square.compute() - mean**2).clamp(min=0) / total
        return {"log_px_importance": log_px.compute()}, Unnormalised(mean, variance.sqrt())
