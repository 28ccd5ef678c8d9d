"""Densities of 2-D toys, by a mixture over prior draws and quadrature on a grid.

The density of a VAE with a diagonal Gaussian likelihood is a mixture of Gaussians over the prior,
p_θ(x) = E_z N(x; μ(z), σ(z)²) ≈ (1/M) Σ_m N(x; μ_m, σ_m²) with M fixed draws of z. The same mixture
serves the test points and the constant Z = ∫ p_θ(x) exp(−E(x)) dx, so h(x) = p_θ(x) exp(−E(x)) / Z
(Eq. 5) is normalised exactly, and only the mixture itself is an approximation of p_θ.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from vaebm.distributions import DiagonalNormal
from vaebm.errors import DataError, UsageError

EnergyFunction = Callable[[Tensor], Tensor]

_DOUBLE = torch.float64
_CHUNK = 8192  # rows that a network sees at once, which bounds the memory
_MAX_AXIS = 4096


class PointVAE(Protocol):
    """What the quadrature needs of a VAE of points, e.g. `MLPVAE`."""

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        """p(x|z) of latents ``(B, latent_dim)``: mean and scale ``(B, 2)``."""


class DensityGrid(NamedTuple):
    """The densities of VAE and VAEBM on a regular grid.

    Attributes:
        axis_x: First coordinates, ``(X,)``, equally spaced.
        axis_y: Second coordinates, ``(Y,)``, with the same spacing.
        log_prob: log p_θ in nats, ``(X, Y)``.
        energy: E, ``(X, Y)``; zero for the VAE alone.
    """

    axis_x: Tensor
    axis_y: Tensor
    log_prob: Tensor
    energy: Tensor

    @property
    def cell_area(self) -> float:
        """Δ², the area of one cell."""
        return float((self.axis_x[1] - self.axis_x[0]) * (self.axis_y[1] - self.axis_y[0]))

    @property
    def mass(self) -> Tensor:
        """∫ p_θ(x) dx over the grid, a scalar; 1 if the grid holds all of the VAE."""
        return log_partition(self.log_prob, torch.zeros_like(self.energy), self.cell_area).exp()

    @property
    def log_z(self) -> Tensor:
        """The scalar log Z = log ∫ p_θ(x) exp(−E(x)) dx."""
        return log_partition(self.log_prob, self.energy, self.cell_area)

    @property
    def quadrature_error(self) -> Tensor:
        """|log Z − log Z of every second point|, which bounds what halving the step would do."""
        coarse = self.log_prob[::2, ::2], self.energy[::2, ::2]
        return (self.log_z - log_partition(*coarse, 4 * self.cell_area)).abs()

    @property
    def edge_mass(self) -> Tensor:
        """Share of Z on the outermost points, about 0 unless E falls faster than log p_θ there."""
        log_prob = self.log_prob_vaebm
        inside = log_partition(log_prob[1:-1, 1:-1], torch.zeros(()).to(log_prob), self.cell_area)
        return (1 - inside.exp()).clamp(min=0)

    @property
    def log_prob_vaebm(self) -> Tensor:
        """The VAEBM, log h = log p_θ − E − log Z in nats, ``(X, Y)``."""
        return self.log_prob - self.energy - self.log_z


@torch.no_grad()
def prior_mixture(vae: PointVAE, num_draws: int = 2**17, seed: int = 0) -> DiagonalNormal:
    """The components N(μ(z_m), σ(z_m)²) of p_θ at fixed quasi-random draws z_m of the prior.

    The z_m are scrambled Sobol points put through the normal quantile.

    Args:
        vae: A VAE of points.
        num_draws: Components M, a power of two, for which Sobol points are balanced.
        seed: Seed of the scrambling.

    Returns:
        Means and scales, float64, ``(M, 2)`` each, on the device of the VAE.

    Raises:
        UsageError: If `num_draws` is not a power of two.

    References:
        Scrambling Sobol' and Niederreiter-Xing Points (Owen, 1998).
    """
    if num_draws < 1 or num_draws & (num_draws - 1):
        raise UsageError(f"num_draws is {num_draws}, but a power of two is due")
    uniform = SobolEngine(vae.latent_dim, scramble=True, seed=seed).draw(num_draws, dtype=_DOUBLE)
    # Sobol points are multiples of 2⁻³⁰, 0 included, whose quantile is infinite.
    z = _like_weights(vae, torch.special.ndtri(uniform.clamp(2**-31, 1 - 2**-31)))
    parts = [vae.likelihood(chunk) for chunk in z.split(_CHUNK)]
    means, scales = zip(*parts, strict=True)
    return DiagonalNormal(torch.cat(means).to(_DOUBLE), torch.cat(scales).to(_DOUBLE))


def mixture_log_prob(points: Tensor, mixture: DiagonalNormal) -> Tensor:
    """Log density of a mixture, log p(x) = log (1/M) Σ_m N(x; μ_m, σ_m²).

    Args:
        points: Points x, ``(N, 2)``.
        mixture: Components, ``(M, 2)``.

    Returns:
        Log densities in nats, float64, ``(N,)``, on the device of the mixture.
    """
    mean, precision = mixture.mean, mixture.scale**-2
    # log N is linear in (x², x, 1): one product, five times as fast as N·M squares of differences.
    constant = mixture.log_prob(torch.zeros_like(mean)).sum(1, keepdim=True)
    weights = torch.cat([-0.5 * precision, mean * precision, constant], dim=1).T
    points = points.to(mean)
    features = torch.cat([points**2, points, torch.ones_like(points[:, :1])], dim=1)
    log_probs = [(chunk @ weights).logsumexp(1) for chunk in features.split(128)]
    return torch.cat(log_probs) - math.log(len(mean))


def mixture_on_grid(axis_x: Tensor, axis_y: Tensor, mixture: DiagonalNormal) -> Tensor:
    """p(x_i, y_j) = (1/M) Σ_m N(x_i; μ_m1, σ_m1²) N(y_j; μ_m2, σ_m2²), a product of matrices.

    Args:
        axis_x: First coordinates, ``(X,)``.
        axis_y: Second coordinates, ``(Y,)``.
        mixture: Components, ``(M, 2)``.

    Returns:
        Densities, ``(X, Y)``.
    """
    density = axis_x.new_zeros(len(axis_x), len(axis_y))
    for mean, scale in zip(mixture.mean.split(_CHUNK), mixture.scale.split(_CHUNK), strict=True):
        along_x = DiagonalNormal(mean[:, 0], scale[:, 0]).log_prob(axis_x[:, None]).exp()
        along_y = DiagonalNormal(mean[:, 1], scale[:, 1]).log_prob(axis_y[:, None]).exp()
        density.addmm_(along_x, along_y.T)
    return density / len(mixture.mean)


def log_partition(log_prob: Tensor, energy: Tensor, cell_area: float) -> Tensor:
    """Quadrature of log Z = log Σ_ij p_ij exp(−E_ij) Δ².

    The trapezoidal rule: exact far beyond its usual order where the integrand is smooth and ends
    inside the grid.

    Args:
        log_prob: log p on the grid in nats, ``(X, Y)``; −∞ where p underflows.
        energy: E on the grid, ``(X, Y)``, finite.
        cell_area: Δ², the area of one cell.

    Returns:
        A scalar.
    """
    return (log_prob - energy).flatten().logsumexp(0) + math.log(cell_area)


def grid_axes(mixture: DiagonalNormal, spacing: float) -> tuple[Tensor, Tensor]:
    """Axes from min(μ − 6σ) to max(μ + 6σ), at multiples of the spacing.

    Args:
        mixture: Components, ``(M, 2)``.
        spacing: Δ, the distance of neighbours.

    Returns:
        The two axes, ``(X,)`` and ``(Y,)``, float64.

    Raises:
        UsageError: If the points are not 2-D, an axis would have more than 4,096 of them, or the
            spacing is not positive.
    """
    if not spacing > 0:
        raise UsageError(f"spacing is {spacing}, but a positive number is due")
    if mixture.mean.shape[1] != 2:
        raise UsageError(f"a grid is for points of 2 dimensions, not {mixture.mean.shape[1]}")
    low = ((mixture.mean - 6 * mixture.scale).amin(0) / spacing).floor().tolist()
    high = ((mixture.mean + 6 * mixture.scale).amax(0) / spacing).ceil().tolist()
    longest = max(end - start for start, end in zip(low, high, strict=True))
    if not longest < _MAX_AXIS:
        raise UsageError(
            f"a spacing of {spacing} needs {longest:.0f} points along one axis, more than the "
            f"{_MAX_AXIS} allowed: the VAE reaches {longest * spacing:.1f} units; use a larger one"
        )
    x, y = (
        mixture.mean.new_tensor(range(int(a), int(b) + 1)) for a, b in zip(low, high, strict=True)
    )
    return x * spacing, y * spacing


@torch.no_grad()
def vaebm_on_grid(
    mixture: DiagonalNormal, energy: EnergyFunction | None = None, *, spacing: float = 0.0125
) -> DensityGrid:
    """The densities of VAE and VAEBM on a grid that holds all of p_θ.

    The energy is evaluated at every point: exp(−E) may be large where p_θ is small.

    Args:
        mixture: Components of p_θ, from `prior_mixture`.
        energy: E, an `Energy` in eval mode or any function of points ``(B, 2)``; None is E = 0.
        spacing: Δ, the distance of neighbours; a quarter of the narrowest mode's standard
            deviation is plenty.

    Returns:
        Axes, log p_θ and E.

    Raises:
        DataError: If the mass of p_θ on the grid is not within 10⁻³ of 1.
        UsageError: If the grid would be too large.
    """
    axis_x, axis_y = grid_axes(mixture, spacing)
    log_prob = mixture_on_grid(axis_x, axis_y, mixture).log()
    points = torch.cartesian_prod(axis_x, axis_y)
    energies = torch.zeros_like(points[:, 0]) if energy is None else energies_of(energy, points)
    grid = DensityGrid(axis_x, axis_y, log_prob, energies.view_as(log_prob))
    if not abs(grid.mass - 1) < 1e-3:
        raise DataError(
            f"a grid of spacing {spacing} sums p_θ to {grid.mass:.4f}; use a smaller one"
        )
    return grid


def energies_of(energy: EnergyFunction, points: Tensor) -> Tensor:
    """Energies of points, computed in chunks, in the precision and on the device of the network.

    Args:
        energy: E, an `Energy` or any function of points ``(B, 2)``.
        points: Points, ``(N, 2)``.

    Returns:
        Energies, ``(N,)``, in the precision and on the device of the points.
    """
    parts = [energy(chunk) for chunk in _like_weights(energy, points).split(_CHUNK)]
    return torch.cat(parts).to(points)


def _like_weights(network: object, points: Tensor) -> Tensor:
    """Points in the precision and on the device of a network's weights, if it has any."""
    weights = network.parameters() if isinstance(network, nn.Module) else iter([])
    return points.to(next(weights, points))
