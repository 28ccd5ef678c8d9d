"""VAE and energy for 2-D toys, made of linear layers."""

import torch
from torch import Tensor

from vaebm.distributions import DiagonalNormal
from vaebm.models.base import VAE, Decoded, ElboTerms, Energy, models
from vaebm.models.layers import SpectralPenalty, mlp, weight_matrices


@models.register
class MLPVAE(VAE):
    """A VAE of points: z ~ N(0, I), x | z ~ N(μ(z), σ(z)²).

    Points are used as they are: no clamp, no rescaling. The likelihood is a diagonal Gaussian, so
    p_θ(x) is a mixture of Gaussians that `vaebm.metrics` can integrate on a grid.

    Args:
        data_dim: Dimension of a point.
        latent_dim: Dimension of z.
        width: Units of each hidden layer.
        depth: Hidden layers of encoder and decoder.
    """

    def __init__(
        self, data_dim: int = 2, latent_dim: int = 20, width: int = 256, depth: int = 4
    ) -> None:
        super().__init__([[latent_dim], [data_dim]])
        hidden = [width] * depth
        self.encoder = mlp([data_dim, *hidden, 2 * latent_dim])
        self.decoder = mlp([latent_dim, *hidden, 2 * data_dim])

    def posterior(self, image: Tensor) -> DiagonalNormal:
        """q(z|x) of points ``(B, data_dim)``."""
        return DiagonalNormal.soft_clamped(*self.encoder(image).chunk(2, dim=1))

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        """p(x|z) of latents ``(B, latent_dim)``."""
        return DiagonalNormal.soft_clamped(*self.decoder(z).chunk(2, dim=1))

    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        """Map noise to points; see `NoiseDecoder.decode`."""
        eps_z, eps_x = self.split(eps)
        prior = DiagonalNormal.standard(eps_z, temperature)
        z = prior.sample(eps_z)
        likelihood = self.likelihood(z)
        image = likelihood.sample(eps_x)
        log_joint = prior.log_prob(z).sum(1) + likelihood.log_prob(image).sum(1)
        return Decoded(image, likelihood.mean, log_joint)

    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        """The evidence lower bound of points; see `VAE.elbo`."""
        posterior = self.posterior(image)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)
        kl = posterior.kl(DiagonalNormal.standard(z)).sum(1, keepdim=True)
        return ElboTerms(self.likelihood(z).log_prob(image).sum(1), kl)


@models.register
class MLPEnergy(Energy):
    """An energy of points, E(x) a stack of linear layers.

    A network at its default initialisation cannot resolve features much smaller than 1 within
    minutes of training. The first layer therefore starts at s times the usual weights and biases:
    its units are s times as steep and still spread over the same region, while one step of the
    optimiser moves them no further. About 0.6 / (standard deviation of the smallest feature) is
    right. (A factor on the input would multiply the learning rate too, and gather all units at the
    origin: six times the likelihood gap on 25 Gaussians.)

    Args:
        data_dim: Dimension of a point.
        width: Units of each hidden layer.
        depth: Hidden layers.
        input_scale: Factor s on the first layer's initial weights and biases.
    """

    def __init__(
        self, data_dim: int = 2, width: int = 256, depth: int = 4, input_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.net = mlp([data_dim, *[width] * depth, 1])
        for parameter in self.net[0].parameters():
            parameter.data *= input_scale
        self.spectral = SpectralPenalty(weight_matrices(self.net))

    def forward(self, image: Tensor) -> Tensor:
        """Energies ``(B,)`` of points ``(B, data_dim)``."""
        energy: Tensor = self.net(image).squeeze(1)
        return energy

    def penalty(self) -> Tensor:
        """Sum of the layers' spectral norms."""
        norms: Tensor = self.spectral(weight_matrices(self.net))
        return norms
