"""A VAE with a linear decoder, whose densities have closed forms."""

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vaebm.distributions import DiagonalNormal


class LinearVAE:
    """x = W z + b + s · ε, so p(x) = N(b, W Wᵀ + diag(s²))."""

    latent_dim = 3

    def __init__(self) -> None:
        rows = [[0.5, -0.2, 0.3], [0.1, 0.6, -0.4]]
        self.weight = torch.tensor(rows, dtype=torch.float64)
        self.bias = torch.tensor([0.3, -0.5], dtype=torch.float64)
        self.scale = torch.tensor([0.2, 0.3], dtype=torch.float64)

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        mean = z @ self.weight.T + self.bias
        return DiagonalNormal(mean, self.scale.expand_as(mean))

    @property
    def marginal(self) -> MultivariateNormal:
        covariance = self.weight @ self.weight.T + self.scale.square().diag()
        return MultivariateNormal(self.bias, covariance)


class QuadraticEnergy:
    """E(x) = ½ (x − c)ᵀ A (x − c)."""

    def __init__(self) -> None:
        self.center = torch.tensor([1.0, 0.5], dtype=torch.float64)
        self.matrix = torch.tensor([[3.0, 0.8], [0.8, 1.5]], dtype=torch.float64)

    def __call__(self, image: Tensor) -> Tensor:
        offset = image - self.center
        return 0.5 * (offset @ self.matrix * offset).sum(1)

    def tilt(self, normal: MultivariateNormal) -> MultivariateNormal:
        """The density ∝ normal(x) exp(−E(x)), normalised."""
        precision = normal.precision_matrix + self.matrix
        pull = normal.precision_matrix @ normal.mean + self.matrix @ self.center
        return MultivariateNormal(torch.linalg.solve(precision, pull), precision_matrix=precision)

    def log_z(self, normal: MultivariateNormal) -> Tensor:
        """log ∫ normal(x) exp(−E(x)) dx, with a Gaussian convolution."""
        spread = normal.covariance_matrix + self.matrix.inverse()
        log_volume = 0.5 * (2 * torch.pi * self.matrix.inverse()).det().log()
        density = MultivariateNormal(normal.mean, spread).log_prob(self.center)
        return density + log_volume
