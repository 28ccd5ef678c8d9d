"""Exact likelihoods of 2-D toys."""

from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric

from vaebm.errors import DataError
from vaebm.metrics.quadrature import (
    EnergyFunction,
    PointVAE,
    energies_of,
    mixture_log_prob,
    prior_mixture,
    vaebm_on_grid,
)


class GridLikelihood(Metric):
    """Negative log-likelihoods of 2-D points under VAE and VAEBM, exact up to stated errors.

    −log p_θ(x) and −log h(x) = −log p_θ(x) + E(x) + log Z, both in nats, averaged over the points
    of all processes. The constructor fixes the mixture and integrates Z once; the networks stay
    outside the module tree, so that the metric has neither parameters nor a state dict. When
    their weights have changed, make a new metric.

    Args:
        vae: The VAE, in eval mode.
        energy: E, in eval mode, or any function of points ``(B, 2)``; None leaves the VAE alone.
        spacing: Distance Δ of grid points.
        num_draws: Components M of the mixture, a power of two.
        seed: Seed of the prior draws.

    Attributes:
        grid: Both densities on the grid, for figures.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    vae_sum: Tensor
    energy_sum: Tensor
    count: Tensor

    def __init__(
        self,
        vae: PointVAE,
        energy: EnergyFunction | None = None,
        *,
        spacing: float = 0.0125,
        num_draws: int = 2**17,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # Inside a partial: a module as an attribute would become a submodule of the metric.
        self._energies = None if energy is None else partial(energies_of, energy)
        self.mixture = prior_mixture(vae, num_draws, seed)
        self.grid = vaebm_on_grid(self.mixture, energy, spacing=spacing)
        for name in ("vae_sum", "energy_sum", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.to(self.mixture.mean.device)  # NCCL cannot sum states that are on the CPU

    def update(self, points: Tensor) -> None:
        """Add points.

        Args:
            points: Points x, ``(N, 2)``.
        """
        points = points.to(self.mixture.mean)
        self.vae_sum = self.vae_sum - mixture_log_prob(points, self.mixture).sum().to(self.vae_sum)
        if self._energies is not None:
            self.energy_sum = self.energy_sum + self._energies(points).sum().to(self.energy_sum)
        self.count = self.count + len(points)

    def compute(self) -> dict[str, Tensor]:
        """The averages over all points.

        Returns:
            ``nll_vae`` in nats and ``mass`` of p_θ on the grid; with an energy also ``nll_vaebm``,
            ``log_z``; ``quadrature_error``, by which ``log_z`` moves if every second grid point is
            left out; and ``edge_mass``, the share of Z on the edge of the grid. If that is not
            about 0, E falls where there are no data, and ``nll_vaebm`` is too low. Scalars.

        Raises:
            DataError: If there was no point.
        """
        if not self.count:
            raise DataError("no points, so no likelihood")
        nll_vae = self.vae_sum / self.count
        figures = {"nll_vae": nll_vae, "mass": self.grid.mass}
        if self._energies is not None:
            log_z = self.grid.log_z.to(nll_vae)
            figures["nll_vaebm"] = nll_vae + self.energy_sum / self.count + log_z
            figures |= {"log_z": log_z, "quadrature_error": self.grid.quadrature_error}
            figures["edge_mass"] = self.grid.edge_mass
        return {name: value.to(nll_vae) for name, value in figures.items()}
