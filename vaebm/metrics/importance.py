"""A lower bound of log p(x) by importance sampling."""

from math import log

import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.models.base import VAE
from vaebm.noise import standard_normal


def importance_log_likelihood(
    vae: VAE, image: Tensor, num_samples: int, *, generator: Generator | None
) -> Tensor:
    """The bound log (1/K) Σ_k p(x, z_k) / q(z_k|x) ≤ log p(x) in expectation; K = 1 is the ELBO.

    Args:
        vae: The VAE, in evaluation mode.
        image: Images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.
        num_samples: Posterior samples K of each image, drawn one after the other.
        generator: Source of the noise.

    Returns:
        The bound in nats, ``(B,)``.

    Raises:
        UsageError: If `num_samples` is below 1, or the VAE offers no importance weights.

    References:
        Importance Weighted Autoencoders (Burda, Grosse, Salakhutdinov, 2016), Eq. 8.
    """
    if num_samples < 1:
        raise UsageError(f"num_samples is {num_samples}, but at least 1 is due")
    total = torch.full((len(image),), -torch.inf, device=image.device)
    for _ in range(num_samples):
        noise = standard_normal(
            len(image), vae.latent_dim, generator=generator, device=image.device
        )
        total = torch.logaddexp(total, vae.log_weight(image, noise=noise.to(image)))
    return total - log(num_samples)
