"""VAEs with one vector of latents: what the small networks share."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from vaebm.distributions import DiagonalNormal, Likelihood, density_of
from vaebm.models.base import VAE, Decoded, ElboTerms


class VectorVAE(VAE):
    """A VAE with z ~ N(0, I), z a vector, and q(z|x) a diagonal Gaussian.

    A subclass makes `encoder` and `decoder` and says what they mean in `posterior` and
    `likelihood`.
    """

    encoder: nn.Module
    decoder: nn.Module

    @abstractmethod
    def posterior(self, image: Tensor) -> DiagonalNormal:
        """q(z|x) of images, each field ``(B, latent_dim)``."""

    @abstractmethod
    def likelihood(self, z: Tensor) -> Likelihood:
        """p(x|z) of latents ``(B, latent_dim)``."""

    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        """Map noise to images; see `NoiseDecoder.decode`."""
        eps_z, eps_x = self.split(eps)
        prior = DiagonalNormal.standard(eps_z, temperature)
        z = prior.sample(eps_z)
        likelihood = self.likelihood(z)
        image = likelihood.sample(eps_x)
        log_px = likelihood.log_prob(image).flatten(1).sum(1)
        return Decoded(image, likelihood.mean, prior.log_prob(z).sum(1) + log_px)

    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        """The evidence lower bound of images; see `VAE.elbo`."""
        posterior = self.posterior(image)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)
        kl = posterior.kl(DiagonalNormal.standard(z)).sum(1, keepdim=True)
        return ElboTerms(self.likelihood(z).log_prob(image).flatten(1).sum(1), kl)

    def log_weight(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Logarithm of the importance weight; see `VAE.log_weight`."""
        posterior = self.posterior(image)
        eps = torch.randn_like(posterior.mean) if noise is None else noise
        z = posterior.sample(eps)
        log_ratio = posterior.log_prob_of_noise(eps) - DiagonalNormal.standard(z).log_prob(z)
        return self.likelihood(z).log_prob(image).flatten(1).sum(1) - log_ratio.sum(1)

    def reconstruct(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """The decoder's mean at a posterior sample; see `VAE.reconstruct`."""
        posterior = self.posterior(image)
        z = posterior.sample(torch.randn_like(posterior.mean) if noise is None else noise)
        return self.likelihood(z).mean

    def joint_state(self, eps: Tensor) -> Tensor:
        """(z, x) of noise; see `VAE.joint_state`."""
        z, eps_x = self.split(eps)
        return torch.cat([z, density_of(self.likelihood(z)).sample(eps_x).flatten(1)], dim=1)

    def decode_joint(self, state: Tensor) -> Decoded:
        """Decode given latents; see `VAE.decode_joint`."""
        z, x = self.split(state)
        density = density_of(self.likelihood(z))
        log_pz = DiagonalNormal.standard(z).log_prob(z).sum(1)
        log_px = density.log_prob(x).flatten(1).sum(1)
        return Decoded(self.clamp(x), density.mean, log_pz + log_px)
