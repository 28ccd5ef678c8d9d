"""Two-dimensional toys with a known density."""

import math
from abc import abstractmethod

import torch
from torch import Generator, Tensor

from vaebm.datamodules.base import ImageDataModule, Splits, Tensors, datamodules
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for


class ToyDataModule(ImageDataModule):
    """Base of the toys: points from a known density, made on the fly from a seed of their own.

    Args:
        batch_size: Points in a batch.
        num_train: Training points.
        num_test: Validation points, and as many test points.
        data_seed: Seed of the points.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(
        self, batch_size: int, num_train: int, num_test: int, data_seed: int, num_workers: int
    ) -> None:
        super().__init__(batch_size, num_workers)
        if num_train < 1 or num_test < 1:
            raise UsageError(f"{type(self).__name__} needs num_train, num_test ≥ 1")
        self.num_train = num_train
        self.num_test = num_test
        self.data_seed = data_seed

    def _require(self, **sizes: float) -> None:
        wrong = [f"{name} is {size}" for name, size in sizes.items() if not 0 < size < math.inf]
        if wrong:
            raise UsageError(f"{', '.join(wrong)}, but {type(self).__name__} needs numbers above 0")

    @abstractmethod
    def draw(self, num_points: int, generator: Generator) -> Tensor:
        """Draw from the density, ``(num_points, 2)``."""

    @abstractmethod
    def log_prob(self, points: Tensor) -> Tensor:
        """True log density in nats.

        Args:
            points: Points, ``(N, 2)``.

        Returns:
            log p(x), ``(N,)``; −∞ where there is no density.
        """

    def splits(self) -> Splits:
        """Draw the three parts from streams of their own."""
        sizes = (self.num_train, self.num_test, self.num_test)
        return Splits(
            *(
                Tensors(self.draw(size, generator_for(Purpose.DATA, self.data_seed, part)))
                for part, size in enumerate(sizes)
            )
        )


class GaussianModesDataModule(ToyDataModule):
    """Base of mixtures of equal Gaussians: p(x) = (1/K) Σ_k N(x; c_k, std² I).

    Attributes:
        std: Standard deviation of a mode.
    """

    std: float

    @property
    @abstractmethod
    def centers(self) -> Tensor:
        """Centres of the modes, ``(K, 2)``."""

    def draw(self, num_points: int, generator: Generator) -> Tensor:
        """Choose a mode of each point, then a place in it."""
        modes = torch.randint(len(self.centers), (num_points,), generator=generator)
        noise = torch.randn(num_points, 2, generator=generator)
        return self.centers[modes] + self.std * noise

    def log_prob(self, points: Tensor) -> Tensor:
        """True log density in nats."""
        squared = (points[:, None] - self.centers.to(points)).square().sum(2)
        log_modes = -0.5 * squared / self.std**2 - math.log(2 * math.pi * self.std**2)
        return log_modes.logsumexp(1) - math.log(len(self.centers))


@datamodules.register
class Gaussians25DataModule(GaussianModesDataModule):
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
        super().__init__(batch_size, num_train, num_test, data_seed, num_workers)
        self._require(std=std)
        self.save_hyperparameters()
        self.std = std

    @property
    def centers(self) -> Tensor:
        """Centres of the modes, ``(25, 2)``."""
        axis = torch.arange(-2.0, 3.0)
        return torch.cartesian_prod(axis, axis)


@datamodules.register
class GaussianRingDataModule(GaussianModesDataModule):
    """K Gaussians on a circle: p(x) = (1/K) Σ_k N(x; radius · (cos φ_k, sin φ_k), std² I).

    With φ_k = 2πk / K. The points are made on the fly from a seed of their own; batches are
    ``(B, 2)``.

    Args:
        batch_size: Points in a batch.
        num_train: Training points.
        num_test: Validation points, and as many test points.
        num_modes: K, at least 1.
        radius: Radius of the circle.
        std: Standard deviation of a mode.
        data_seed: Seed of the points.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(
        self,
        batch_size: int = 256,
        num_train: int = 500_000,
        num_test: int = 10_000,
        num_modes: int = 8,
        radius: float = 2.0,
        std: float = 0.05,
        data_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_train, num_test, data_seed, num_workers)
        self._require(num_modes=num_modes, radius=radius, std=std)
        self.save_hyperparameters()
        self.num_modes = num_modes
        self.radius = radius
        self.std = std

    @property
    def centers(self) -> Tensor:
        """Centres of the modes, ``(K, 2)``."""
        angle = 2 * math.pi * torch.arange(self.num_modes) / self.num_modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], 1)


@datamodules.register
class RingsDataModule(ToyDataModule):
    """Rings around the origin: a radius of N(k · distance, std²), k in {1 … K}, any direction.

    p(x) = (1/K) Σ_k N(‖x‖; ± k · distance, std²) / (2π ‖x‖). The points are made on the fly from a
    seed of their own; batches are ``(B, 2)``.

    Args:
        batch_size: Points in a batch.
        num_train: Training points.
        num_test: Validation points, and as many test points.
        num_rings: K, at least 1.
        distance: Distance of neighbours, and radius of the innermost.
        std: Standard deviation of the radius.
        data_seed: Seed of the points.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(
        self,
        batch_size: int = 256,
        num_train: int = 500_000,
        num_test: int = 10_000,
        num_rings: int = 2,
        distance: float = 1.0,
        std: float = 0.05,
        data_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_train, num_test, data_seed, num_workers)
        self._require(num_rings=num_rings, distance=distance, std=std)
        self.save_hyperparameters()
        self.num_rings = num_rings
        self.distance = distance
        self.std = std

    def draw(self, num_points: int, generator: Generator) -> Tensor:
        """Choose a ring of each point, then a radius and a direction."""
        ring = torch.randint(1, self.num_rings + 1, (num_points,), generator=generator)
        radius = self.distance * ring + self.std * torch.randn(num_points, generator=generator)
        angle = 2 * math.pi * torch.rand(num_points, generator=generator)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def log_prob(self, points: Tensor) -> Tensor:
        """True log density in nats."""
        rings = self.distance * torch.arange(1, self.num_rings + 1).to(points)
        radius = points.norm(dim=1, keepdim=True)
        # A radius below 0 is one above 0 in the other direction.
        offsets = radius - torch.cat([rings, -rings])
        log_radius = -0.5 * (offsets / self.std) ** 2 - 0.5 * math.log(2 * math.pi * self.std**2)
        log_length = math.log(2 * math.pi * self.num_rings) + radius[:, 0].log()
        log_density: Tensor = log_radius.logsumexp(1) - log_length
        return log_density


@datamodules.register
class CheckerboardDataModule(ToyDataModule):
    """The black squares of a board of n×n unit squares around the origin, each point as likely.

    The entropy is log of their number, (n² + 1) // 2. The points are made on the fly from a seed of
    their own; batches are ``(B, 2)``.

    Args:
        batch_size: Points in a batch.
        num_train: Training points.
        num_test: Validation points, and as many test points.
        num_squares: n, squares along a side, at least 1.
        data_seed: Seed of the points.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(
        self,
        batch_size: int = 256,
        num_train: int = 500_000,
        num_test: int = 10_000,
        num_squares: int = 4,
        data_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, num_train, num_test, data_seed, num_workers)
        self._require(num_squares=num_squares)
        self.save_hyperparameters()
        self.num_squares = num_squares

    @property
    def black(self) -> Tensor:
        """Column and row of the black squares, ``(S, 2)``."""
        squares = torch.cartesian_prod(*[torch.arange(self.num_squares)] * 2)
        return squares[squares.sum(1) % 2 == 0]

    def draw(self, num_points: int, generator: Generator) -> Tensor:
        """Choose a black square of each point, then a place in it."""
        chosen = torch.randint(len(self.black), (num_points,), generator=generator)
        place = torch.rand(num_points, 2, generator=generator)
        place = place.clamp(1e-5, 1 - 1e-5)  # rounding must not carry it into a white square
        return self.black[chosen] + place - self.num_squares / 2

    def log_prob(self, points: Tensor) -> Tensor:
        """True log density in nats."""
        square = (points + self.num_squares / 2).floor()
        inside = ((square >= 0) & (square < self.num_squares)).all(1)
        is_black = inside & (square.sum(1) % 2 == 0)
        height = torch.full_like(points[:, 0], -math.log(len(self.black)))
        return height.where(is_black, -torch.inf)
