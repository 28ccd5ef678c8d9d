"""Two-dimensional toys with a known density."""

import math

import torch
from torch import Generator, Tensor

from vaebm.datamodules.base import ImageDataModule, Splits, Tensors, datamodules
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for


@datamodules.register
class Gaussians25DataModule(ImageDataModule):
    """25 Gaussians on a 5×5 grid: p(x) = (1/25) Σ_k N(x; c_k, std² I), c_k ∈ {−2, −1, 0, 1, 2}².

    The points are made on the fly from a seed of their own; batches are ``(B, 2)``.

    Args:
        batch_size: Points in a batch.
        num_train: Training points.
        num_test: Validation points, and as many test points.
        std: Standard deviation of a mode.
        data_seed: Seed of the points.
        num_workers: Worker processes of each loader; 0 loads in the main process.

    References:
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), Figure 4.
    """

    def __init__(
        self,
        batch_size: int = 256,
        num_train: int = 500_000,
        num_test: int = 10_000,
        std: float = 0.05,
        data_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if num_train < 1 or num_test < 1 or std <= 0:
            raise UsageError("Gaussians25DataModule needs num_train, num_test ≥ 1 and std > 0")
        self.save_hyperparameters()
        self.num_train = num_train
        self.num_test = num_test
        self.std = std
        self.data_seed = data_seed

    @property
    def centers(self) -> Tensor:
        """Centres of the modes, ``(25, 2)``."""
        axis = torch.arange(-2.0, 3.0)
        return torch.cartesian_prod(axis, axis)

    def draw(self, num_points: int, generator: Generator) -> Tensor:
        """Draw from the density, ``(num_points, 2)``."""
        modes = torch.randint(25, (num_points,), generator=generator)
        noise = torch.randn(num_points, 2, generator=generator)
        return self.centers[modes] + self.std * noise

    def log_prob(self, points: Tensor) -> Tensor:
        """True log density in nats.

        Args:
            points: Points, ``(N, 2)``.

        Returns:
            log p(x), ``(N,)``.
        """
        squared = (points[:, None] - self.centers.to(points)).square().sum(2)
        log_modes = -0.5 * squared / self.std**2 - math.log(2 * math.pi * self.std**2)
        return log_modes.logsumexp(1) - math.log(25)

    def splits(self) -> Splits:
        """Draw the three parts from streams of their own."""
        sizes = (self.num_train, self.num_test, self.num_test)
        return Splits(
            *(
                Tensors(self.draw(size, generator_for(Purpose.DATA, self.data_seed, part)))
                for part, size in enumerate(sizes)
            )
        )
