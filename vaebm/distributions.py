"""Normal distributions with soft-clamped parameters and pixel likelihoods."""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def soft_clamp(value: Tensor, limit: float = 5.0) -> Tensor:
    """Squash values smoothly to (−limit, limit): limit · tanh(value / limit)."""
    return (value / limit).tanh() * limit


def at_least_float32(value: Tensor) -> Tensor:
    """The value in float32 or wider, for sums and densities of half-precision outputs."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class DiagonalNormal(NamedTuple):
    """Independent normals N(mean, scale²), the distribution of every latent group.

    Attributes:
        mean: Means, any shape.
        scale: Standard deviations, positive, broadcastable to `mean`.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def soft_clamped(cls, mean: Tensor, log_scale: Tensor, temperature: float = 1.0) -> Self:
        """Build from raw network outputs.

        mean = c(mean), scale = (exp(c(log_scale)) + 0.01) · temperature, c(v) = 5 tanh(v / 5).
        The bounds keep exp() and its gradient finite, and the scale above 0.01.

        Args:
            mean: Raw means.
            log_scale: Raw logarithms of the scales.
            temperature: Factor on the scale.

        References:
            NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020).
        """
        mean, log_scale = at_least_float32(mean), at_least_float32(log_scale)
        return cls(soft_clamp(mean), (soft_clamp(log_scale).exp() + 0.01) * temperature)

    @classmethod
    def standard(cls, like: Tensor, temperature: float = 1.0) -> Self:
        """N(0, temperature²) shaped like a tensor."""
        return cls(torch.zeros_like(like), torch.full_like(like, temperature))

    def sample(self, eps: Tensor) -> Tensor:
        """The reparametrised sample mean + scale · eps."""
        return self.mean + self.scale * eps

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density per element."""
        return -0.5 * ((value - self.mean) / self.scale) ** 2 - self.scale.log() - 0.5 * LOG_2PI

    def kl(self, other: "DiagonalNormal") -> Tensor:
        """KL(self ‖ other) per element."""
        ratio = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return 0.5 * (shift**2 + ratio**2) - 0.5 - ratio.log()


class GaussianPixels(NamedTuple):
    """Gaussian likelihood of images: x in [0, 1] is seen as 2x − 1 ~ N(mean, scale²).

    The decoder's Gaussian lives on [−1, 1]; a sample is clamped to that range. Log densities are
    of 2x − 1, so they are not comparable with the log probabilities of discretised likelihoods.

    Attributes:
        normal: The distribution of 2x − 1, ``(B, C, H, W)``.
    """

    normal: DiagonalNormal

    def sample(self, eps: Tensor) -> Tensor:
        """Image (clamp(mean + scale · eps, −1, 1) + 1) / 2 for pixel noise eps."""
        return (self.normal.sample(eps).clamp(-1, 1) + 1) / 2

    @property
    def mean(self) -> Tensor:
        """The mean as an image, (mean + 1) / 2; not clamped."""
        return (self.normal.mean + 1) / 2

    def log_prob(self, image: Tensor) -> Tensor:
        """Log p(x|z) in nats per pixel and colour, ``(B, C, H, W)``."""
        return self.normal.log_prob(2 * image - 1)
