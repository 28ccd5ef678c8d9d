"""The importance-weighted bound, on a VAE whose p(x) is known."""

import pytest
import torch

from tests.toys import LinearVAE
from vaebm.errors import UsageError
from vaebm.metrics.importance import importance_log_likelihood
from vaebm.models import MLPVAE
from vaebm.noise import generator_for


class WeightedLinearVAE(LinearVAE):
    """A linear-Gaussian VAE that offers importance weights."""

    def log_weight(self, image: torch.Tensor, *, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Log p(x, z) − log q(z|x)."""
        posterior = self.posterior(image)
        eps = torch.randn_like(posterior.mean) if noise is None else noise
        z = posterior.sample(eps)
        normal = torch.distributions.Normal(0.0, 1.0)
        log_joint = normal.log_prob(z).sum(1) + self.likelihood(z).log_prob(image).sum(1)
        return log_joint - posterior.log_prob(z).sum(1)


def test_bound_is_exact_when_the_posterior_is() -> None:
    vae, image = WeightedLinearVAE(), torch.randn(6, 3)
    bound = importance_log_likelihood(vae, image, 1, generator=generator_for(0))
    torch.testing.assert_close(bound, vae.marginal().log_prob(image), rtol=1e-4, atol=1e-4)


def test_bound_tightens_with_the_number_of_samples() -> None:
    vae, image = WeightedLinearVAE(posterior_shift=1.0), torch.randn(500, 3)
    exact = vae.marginal().log_prob(image).mean()
    gaps = [
        (exact - importance_log_likelihood(vae, image, k, generator=generator_for(k)).mean()).item()
        for k in (1, 10, 1000)
    ]
    # K = 1 is the ELBO: KL between normals one scale apart in two coordinates is 1 nat.
    assert gaps[0] == pytest.approx(1.0, abs=5 * 2**0.5 / 500**0.5)
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] == pytest.approx(0, abs=0.02)


def test_bound_is_the_logarithm_of_the_mean_weight() -> None:
    vae, image = MLPVAE(latent_dim=3, width=8, depth=1), torch.randn(4, 2)
    generator = generator_for(5)
    noise = [torch.randn(4, 3, generator=generator) for _ in range(7)]
    weights = torch.stack([vae.log_weight(image, noise=n).exp() for n in noise])
    bound = importance_log_likelihood(vae, image, 7, generator=generator_for(5))
    torch.testing.assert_close(bound, weights.mean(0).log(), rtol=1e-4, atol=1e-4)


def test_number_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="num_samples is 0"):
        importance_log_likelihood(LinearVAE(), torch.zeros(1, 3), 0, generator=None)


def test_vae_without_weights_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="LinearVAE offers no importance weights"):
        importance_log_likelihood(LinearVAE(), torch.zeros(1, 3), 2, generator=None)
