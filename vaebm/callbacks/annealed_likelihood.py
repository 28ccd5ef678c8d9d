"""The likelihood of a VAEBM by annealed importance sampling."""

import warnings
from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric

from vaebm.annealing import AnnealedPath, annealed_weights, sigmoid_betas
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.metrics import AnnealedPartition
from vaebm.metrics.importance import importance_log_likelihood
from vaebm.noise import Purpose, generator_for, uniform
from vaebm.samplers.base import Sampler
from vaebm.samplers.hmc import HMCSampler
from vaebm.samplers.resampling import normalised, systematic_choice
from vaebm.spaces import NoiseSpace, prior_noise


class AnnealedLikelihood(Callback):
    """Estimates log Z and with it log h(x) = log p_θ(x) − E(x) − log Z of test images (Eq. 5).

    After a test, in nats: ``test/ais_log_z`` with its standard error ``test/ais_log_z_error`` and
    the number of chains that count, ``test/ais_log_z_ess``, from chains that go from the VAE's
    prior to the model; ``test/ais_log_z_upper`` with ``test/ais_log_z_upper_error`` from chains
    that go back. Chains that are too short leave a gap between the two. Of the test images:
    ``test/log_px_importance``, the importance-weighted bound of log p_θ(x), and ``test/log_h``,
    with the standard error ``test/log_h_error`` that images and Z leave; ``test/log_h_lower`` has
    the upper log Z instead.

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
        stage = self.checked(pl_module)
        partition = AnnealedPartition().to(stage.device)
        for log_weight, down in self.weights(stage, trainer.global_rank, trainer.world_size):
            partition.update(log_weight, down=down)
        log_z = partition.compute()
        figures = {f"ais_{name}": value for name, value in log_z.items()}
        figures |= self.density(trainer, stage, log_z)
        pl_module.log_dict({f"test/{name}": float(value) for name, value in figures.items()})

    def checked(self, pl_module: LightningModule) -> EBMStage:
        """The stage, if its chains live in the VAE's noise."""
        space = pl_module.space if isinstance(pl_module, EBMStage) else None
        if not (isinstance(space, NoiseSpace) and space.prior == "noise"):
            raise UsageError(
                "AnnealedLikelihood is for stage 2 with chains in NoiseSpace(prior='noise'): "
                "elsewhere the annealing does not start at a known density"
            )
        assert isinstance(pl_module, EBMStage)
        if not self.sampler.leaves_target:
            name = type(self.sampler).__name__
            warnings.warn(
                f"{name} does not leave its target exactly as it is: log Z will be biased",
                stacklevel=2,
            )
        return pl_module

    def weights(self, stage: EBMStage, rank: int, world_size: int) -> Iterator[tuple[Tensor, bool]]:
        """Log weights of this rank's chains, and whether they went back."""
        betas = sigmoid_betas(self.num_temperatures).to(stage.device)
        for first, count in shares(self.num_chains, self.batch_size, rank, world_size):
            place = (Purpose.ANNEALING, self.seed, first)
            generator = generator_for(*place, device=stage.device)
            with stage.frozen_potential() as potential:
                start = prior_noise(stage.vae, count, generator=generator)
                path = AnnealedPath(potential, start.dtype)
                up = annealed_weights(path, start, betas, self.sampler, generator=generator)
                yield up.log_weight, False
                if self.go_back:
                    offset = uniform(1, generator=generator, device=stage.device)[0]
                    chosen = systematic_choice(normalised(up.log_weight), count, offset)
                    start, down = up.state[chosen], betas.flip(0)
                    back = annealed_weights(path, start, down, self.sampler, generator=generator)
                    yield back.log_weight, True

    def density(
        self, trainer: Trainer, stage: EBMStage, log_z: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The means of log p_θ and log h over test images."""
        test = trainer.datamodule.parts.test  # type: ignore[attr-defined]
        total = min(self.num_images, len(test))
        log_px, log_h, square = (MeanMetric().to(stage.device) for _ in range(3))
        for first, count in shares(total, self.batch_size, trainer.global_rank, trainer.world_size):
            image = torch.stack([test[index][0] for index in range(first, first + count)])
            image = image.to(stage.device)
            generator = generator_for(Purpose.IMPORTANCE, self.seed, first, device=stage.device)
            bound = importance_log_likelihood(
                stage.vae, image, self.num_importance_samples, generator=generator
            ).double()
            log_px.update(bound)
            unnormalised = bound - stage.energies(image)
            log_h.update(unnormalised)
            square.update(unnormalised**2)
        mean = log_h.compute()
        variance = (square.compute() - mean**2).clamp(min=0) / total
        figures = {"log_px_importance": log_px.compute(), "log_h": mean - log_z["log_z"]}
        figures["log_h_error"] = (variance + log_z["log_z_error"] ** 2).sqrt()
        if "log_z_upper" in log_z:
            figures["log_h_lower"] = mean - log_z["log_z_upper"]
        return figures


def shares(total: int, batch_size: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """First index and size of the batches of one rank; none is empty while there are enough."""
    size = min(batch_size, -(-total // world_size))
    return [(first, min(size, total - first)) for first in range(0, total, size)][rank::world_size]
