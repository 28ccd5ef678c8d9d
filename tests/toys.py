"""Small models whose densities have closed forms; the tests compare against those."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaebm.distributions import DiagonalNormal
from vaebm.models.base import VAE, Decoded, ElboTerms, Energy


class LinearVAE(VAE):
    """A linear-Gaussian VAE of points: x = W z + b + σ(z) ε_x, z ~ N(0, I₂), x in R³.

    The columns of W are orthogonal, so that with a fixed σ the exact posterior is diagonal, and it
    is the one this VAE uses.

    Args:
        sigma: σ(0).
        slope: log σ(z) = log(sigma) + slope · z₁; 0 is a fixed σ.
        posterior_shift: Error of the posterior mean, in standard deviations of the posterior.
    """

    def __init__(
        self, sigma: float = 0.5, slope: float = 0.0, posterior_shift: float = 0.0
    ) -> None:
        super().__init__([[2], [3]])
        self.weight = nn.Parameter(torch.tensor([[1.0, -0.5], [1.0, 0.5], [0.0, 1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.sigma = sigma
        self.slope = slope
        self.posterior_shift = posterior_shift

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        """p(x|z)."""
        log_sigma = math.log(self.sigma) + self.slope * z[:, :1]
        return DiagonalNormal(z @ self.weight.T + self.bias, log_sigma.exp().expand(-1, 3))

    def posterior(self, image: Tensor) -> DiagonalNormal:
        """p(z|x) where σ is fixed, moved by `posterior_shift`."""
        precision = 1 + self.weight.square().sum(0) / self.sigma**2
        scale = precision.rsqrt()
        mean = (image - self.bias) @ self.weight / self.sigma**2 / precision
        return DiagonalNormal(mean + self.posterior_shift * scale, scale.expand_as(mean))

    def marginal(self) -> torch.distributions.MultivariateNormal:
        """The exact p(x) where σ is fixed."""
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(3)
        return torch.distributions.MultivariateNormal(self.bias, covariance)

    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        """Map noise to points."""
        eps_z, eps_x = self.split(eps)
        prior = DiagonalNormal.standard(eps_z, temperature)
        z = prior.sample(eps_z)
        likelihood = self.likelihood(z)
        image = likelihood.sample(eps_x)
        log_joint = prior.log_prob(z).sum(1) + likelihood.log_prob(image).sum(1)
        return Decoded(image, likelihood.mean, log_joint)

    def joint_state(self, eps: Tensor) -> Tensor:
        """(z, x) of noise."""
        z, eps_x = self.split(eps)
        return torch.cat([z, self.likelihood(z).sample(eps_x)], dim=1)

    def decode_joint(self, state: Tensor) -> Decoded:
        """Decode given latents."""
        z, x = self.split(state)
        likelihood = self.likelihood(z)
        log_pz = DiagonalNormal.standard(z).log_prob(z).sum(1)
        return Decoded(x, likelihood.mean, log_pz + likelihood.log_prob(x).sum(1))

    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        """The evidence lower bound."""
        posterior = self.posterior(image)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)
        kl = posterior.kl(DiagonalNormal.standard(z)).sum(1, keepdim=True)
        return ElboTerms(self.likelihood(z).log_prob(image).sum(1), kl)


class QuadraticEnergy(Energy):
    """E(x) = ½ · curvature · ‖x − centre‖²; with curvature 0, E = 0.

    Args:
        curvature: Second derivative in every direction.
        centre: Where the energy is lowest, in every coordinate.
    """

    def __init__(self, curvature: float = 1.0, centre: float = 0.0) -> None:
        super().__init__()
        self.curvature = nn.Parameter(torch.tensor(curvature))
        self.centre = nn.Parameter(torch.tensor(centre))

    def forward(self, image: Tensor) -> Tensor:
        """Energies of points or images."""
        return 0.5 * self.curvature * (image - self.centre).square().flatten(1).sum(1)

    def penalty(self) -> Tensor:
        """Nothing to penalise."""
        return self.curvature.new_zeros(())


class Composite(Energy):
    """An energy made of another one, for nested configurations.

    Args:
        parts: Energies that are added.
        shape: Any sequence of integers.
    """

    def __init__(self, parts: Sequence[Energy], shape: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.shape = shape

    def forward(self, image: Tensor) -> Tensor:
        """The sum of all parts."""
        return torch.stack([part(image) for part in self.parts]).sum(0)

    def penalty(self) -> Tensor:
        """Nothing to penalise."""
        return torch.zeros(())


class PlainEnergy(Energy):
    """E = x₁, without a constructor of its own."""

    def forward(self, image: Tensor) -> Tensor:
        """The first coordinate."""
        return image[:, 0]

    def penalty(self) -> Tensor:
        """Nothing to penalise."""
        return torch.zeros(())


def half_square(state: Tensor) -> Tensor:
    """U(x) = ½‖x‖², the potential of N(0, I)."""
    return 0.5 * state.square().sum(1)
