"""Targets of which exact draws and exact probabilities are known, for tests of kernels."""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from scipy.stats import chi2
from torch import Tensor

from vaebm.distributions import DiagonalNormal
from vaebm.metrics.quadrature import prior_mixture, vaebm_on_grid
from vaebm.noise import generator_for

# A fixed seed that passes is no proof: a test at this level has one chance in a million to fail.
LEVEL = 1e-6


class Target(ABC):
    """A density ∝ exp(−U) on a plane."""

    @abstractmethod
    def __call__(self, state: Tensor) -> Tensor:
        """U of states ``(B, D)``."""

    @abstractmethod
    def draw(self, count: int, seed: int) -> Tensor:
        """Exact, independent draws, ``(count, D)``."""

    @abstractmethod
    def cells(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Which cell each state lies in, ``(B,)``, and the probabilities of all cells."""

    def p_value(self, state: Tensor) -> float:
        """χ² test of independent states against the exact probabilities; 0 if one is NaN."""
        if not state.isfinite().all():
            return 0.0
        cell, probability = self.cells(state)
        counts = torch.bincount(cell, minlength=len(probability)).double()
        expected = probability * len(state)
        rare = expected < 10  # the χ² law needs more; they are counted as one
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        kept = expected > 0
        statistic = ((counts - expected)[kept].square() / expected[kept]).sum()
        return float(chi2.sf(statistic, int(kept.sum()) - 1))


class Uniformised(Target):
    """A target that a known map turns into the uniform law on the unit square."""

    divisions = 20

    @abstractmethod
    def normal(self, state: Tensor) -> Tensor:
        """The state as independent standard normals, ``(B, 2)``."""

    def cells(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """A square of equally likely cells."""
        uniform = torch.special.ndtr(self.normal(state.double()))
        row, column = (uniform * self.divisions).long().clamp(max=self.divisions - 1).T
        count = self.divisions**2
        return row * self.divisions + column, torch.full((count,), 1 / count).double()


class Gaussian(Uniformised):
    """N(0, diag(1, 1 / condition))."""

    def __init__(self, condition: float = 100.0) -> None:
        self.scale = torch.tensor([1.0, condition**-0.5])

    def __call__(self, state: Tensor) -> Tensor:
        """U."""
        return 0.5 * (state / self.scale).square().sum(1)

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw."""
        return self.scale * torch.randn(count, 2, generator=generator_for(seed))

    def normal(self, state: Tensor) -> Tensor:
        """Standardise."""
        return state / self.scale


class Banana(Uniformised):
    """x₁ ~ N(0, 1), x₂ | x₁ ~ N(x₁² − 1, 0.3²)."""

    width = 0.3

    def __call__(self, state: Tensor) -> Tensor:
        """U."""
        return 0.5 * self.normal(state).square().sum(1)

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw."""
        first, second = torch.randn(2, count, generator=generator_for(seed))
        return torch.stack([first, first**2 - 1 + self.width * second], dim=1)

    def normal(self, state: Tensor) -> Tensor:
        """Bend it straight."""
        first, second = state.unbind(1)
        return torch.stack([first, (second - first**2 + 1) / self.width], dim=1)


class Gaussians25(Target):
    """A VAEBM in noise space: a VAE with a bent decoder, and an energy with 25 wells.

    T(ε): z = ε₁₂, x = μ(z) + σ(z) ε₃₄. Draws are exact by rejection, since E is bounded; the
    probabilities of x come from quadrature.
    """

    latent_dim = 2
    depth, width, spacing, block = 3.0, 0.15, 0.02, 12

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        """p(x|z)."""
        return DiagonalNormal(1.3 * z + 0.3 * torch.sin(2 * z), 0.3 + 0.1 * torch.tanh(z))

    def decode(self, eps: Tensor) -> Tensor:
        """T(ε)."""
        return self.likelihood(eps[:, :2]).sample(eps[:, 2:])

    def energy(self, points: Tensor) -> Tensor:
        """E, at least −depth: −depth · exp(−squared distance to the nearest well / 2 width²)."""
        offset = points - points.round().clamp(-2, 2)
        return -self.depth * torch.exp(-offset.square().sum(1) / (2 * self.width**2))

    def __call__(self, state: Tensor) -> Tensor:
        """U."""
        return self.energy(self.decode(state)) + 0.5 * state.square().sum(1)

    def draw(self, count: int, seed: int) -> Tensor:
        """Draw ε by rejection."""
        generator, kept, total = generator_for(seed), [], 0
        while total < count:
            eps = torch.randn(200_000, 4, generator=generator)
            log_accept = -self.energy(self.decode(eps)) - self.depth
            kept.append(eps[torch.rand(len(eps), generator=generator).log() < log_accept])
            total += len(kept[-1])
        return torch.cat(kept)[:count]

    @cached_property
    def grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """Lowest edges of both axes, and probabilities of square blocks of grid points."""
        grid = vaebm_on_grid(prior_mixture(self, 2**14), self.energy, spacing=self.spacing)
        probability = grid.log_prob_vaebm.exp() * grid.cell_area
        rows, columns = (-size % self.block for size in probability.shape)
        padded = torch.nn.functional.pad(probability, (0, columns, 0, rows))
        blocks = padded.unfold(0, self.block, self.block).unfold(1, self.block, self.block)
        low = torch.stack([grid.axis_x[0], grid.axis_y[0]]) - self.spacing / 2
        return low, blocks.sum((2, 3)), grid.log_z

    def cells(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks of the grid; what lies outside counts as its edge."""
        low, blocks, _ = self.grid
        place = ((self.decode(state).double() - low) / (self.spacing * self.block)).long()
        limit = torch.tensor(blocks.shape) - 1
        row, column = place.clamp(min=0).minimum(limit).T
        return row * blocks.shape[1] + column, blocks.flatten()
