"""Normal distributions with soft-clamped parameters and pixel likelihoods."""

import math
from typing import NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from vaebm.errors import UsageError

LOG_2PI = math.log(2 * math.pi)
UNIFORM_MARGIN = 1e-5  # keeps logit(u) finite, as in the published sampler


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
    def from_raw(cls, raw: Tensor, temperature: float = 1.0) -> Self:
        """Build from a network's output ``(B, 2C, ...)``: raw means, then raw log scales."""
        mean, log_scale = raw.chunk(2, dim=1)
        return cls.soft_clamped(mean, log_scale, temperature)

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

    def log_prob_of_noise(self, eps: Tensor) -> Tensor:
        """Log density per element of the sample that `eps` gives, without its round trip."""
        return -0.5 * eps**2 - self.scale.log() - 0.5 * LOG_2PI

    def kl(self, other: "DiagonalNormal") -> Tensor:
        """KL(self ‖ other) per element."""
        ratio = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return 0.5 * (shift**2 + ratio**2) - 0.5 - ratio.log()


class Likelihood(Protocol):
    """p(x|z): a distribution of images that is a map of noise."""

    @property
    def mean(self) -> Tensor:
        """The mean, shaped like an image; not clamped."""

    def sample(self, eps: Tensor) -> Tensor:
        """The image for pixel noise eps ~ N(0, I), both of one shape."""

    def log_prob(self, image: Tensor) -> Tensor:
        """Log p(x|z) in nats, shaped like the image, or without colours if they are coupled."""


class PixelLikelihood(Likelihood, Protocol):
    """p(x|z) of images ``(B, C, H, W)`` in [0, 1]."""

    def floored(self) -> "PixelLikelihood":
        """The likelihood that chains use: of Gaussians with the scale bounded below."""


class GaussianPixels(NamedTuple):
    """Gaussian likelihood of images: x in [0, 1] is seen as 2x − 1 ~ N(mean, scale²).

    The decoder's Gaussian lives on [−1, 1]; a sample is clamped to that range. Log densities are
    of 2x − 1, so they are not comparable with the log probabilities of discretised likelihoods.

    Attributes:
        normal: The distribution of 2x − 1, ``(B, C, H, W)``.
    """

    normal: DiagonalNormal

    @classmethod
    def from_raw(cls, raw: Tensor) -> Self:
        """Build from a network's output ``(B, 2C, H, W)``: raw means, then raw log scales."""
        return cls(DiagonalNormal.from_raw(raw))

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

    def floored(self) -> Self:
        """The same with the scale not below exp(−2) + 0.01, as published chains see it."""
        mean, scale = self.normal
        return self._replace(normal=DiagonalNormal(mean, scale.clamp(min=math.exp(-2) + 0.01)))


class BernoulliPixels(NamedTuple):
    """Bernoulli likelihood of binary images.

    A sample is 0 or 1: 1 where Φ(eps) < p. No gradient passes through it, so that an energy on
    such samples does not move chains.

    Attributes:
        logits: log(p / (1 − p)), ``(B, C, H, W)``.
    """

    logits: Tensor

    @classmethod
    def from_raw(cls, raw: Tensor) -> Self:
        """Build from a network's output, the logits ``(B, C, H, W)``."""
        return cls(at_least_float32(raw))

    def sample(self, eps: Tensor) -> Tensor:
        """Binary image for pixel noise eps."""
        image: Tensor = (torch.special.ndtr(eps) < self.mean).to(self.logits)
        return image

    @property
    def mean(self) -> Tensor:
        """The probabilities p."""
        return self.logits.sigmoid()

    def log_prob(self, image: Tensor) -> Tensor:
        """Log p(x|z) = x · logit − log(1 + exp(logit)) in nats per pixel, ``(B, C, H, W)``."""
        log_px: Tensor = image * self.logits - F.softplus(self.logits)
        return log_px

    def floored(self) -> Self:
        """Itself: there is no scale."""
        return self


class LogisticMixturePixels(NamedTuple):
    """Mixture of M discretised logistics over RGB pixels of a number of bits.

    On [−1, 1], with x = (r, g, b): p(x) = Σ_m π_m Π_c [F_mc(x_c + 1/q) − F_mc(x_c − 1/q)] with
    q = 2^bits − 1 and F the logistic distribution function; the lowest and highest value take the
    rest of the tails. Green's mean depends on red, blue's on red and green.

    Attributes:
        logits: Unnormalised log π, ``(B, M, H, W)``.
        means: ``(B, 3, M, H, W)``.
        log_scales: ``(B, 3, M, H, W)``.
        coefficients: Of red on green, of red on blue and of green on blue, ``(B, 3, M, H, W)``.
        bits: Bits of a pixel's value.

    References:
        PixelCNN++ (Salimans, Karpathy, Chen, Kingma, 2017), section 2.1.
    """

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    coefficients: Tensor
    bits: int

    @classmethod
    def from_raw(cls, raw: Tensor, bits: int) -> Self:
        """Build from a network's output ``(B, 10M, H, W)``.

        M logits, then for each colour M means, M log scales (bounded below by −7) and M
        coefficients (through tanh).
        """
        raw = at_least_float32(raw)
        number = raw.shape[1] // 10
        logits, rest = raw[:, :number], raw[:, number:].unflatten(1, (3, 3, number))
        means, log_scales, coefficients = rest.unbind(2)
        return cls(logits, means, log_scales.clamp(min=-7), coefficients.tanh(), bits)

    def log_prob(self, image: Tensor) -> Tensor:
        """Log p(x|z) in nats per pixel, all colours together, ``(B, H, W)``."""
        x = (2 * image - 1)[:, :, None].expand_as(self.means)
        k = self.coefficients
        red, green = x[:, 0], x[:, 1]
        shift = torch.stack(
            [torch.zeros_like(red), k[:, 0] * red, k[:, 1] * red + k[:, 2] * green], dim=1
        )
        colours = self._log_bin(x, x - self.means - shift).sum(1)
        return (colours + self.logits.log_softmax(1)).logsumexp(1)

    def _log_bin(self, x: Tensor, distance: Tensor) -> Tensor:
        """Log probability of the bin around x, at a distance from the logistic's mean."""
        inverse, half = (-self.log_scales).exp(), 1 / (2**self.bits - 1)
        upper, lower = inverse * (distance + half), inverse * (distance - half)
        mass = upper.sigmoid() - lower.sigmoid()
        middle = inverse * distance
        # Where the difference cancels: the density at the centre times the width of the bin.
        density = middle - self.log_scales - 2 * F.softplus(middle) + math.log(2 * half)
        inner = torch.where(mass > 1e-5, mass.clamp(min=1e-10).log(), density)
        top = torch.where(x > 0.99, -F.softplus(lower), inner)
        return torch.where(x < -0.999, upper - F.softplus(upper), top)

    def sample(self, eps: Tensor) -> Tensor:
        """Image for pixel noise eps ``(B, 3, H, W)``.

        Red's noise as a uniform number chooses the component by the cumulated weights, and where
        in the component's share it falls is uniform again: the red value.
        """
        uniform = torch.special.ndtr(eps)
        chosen, rest = self._choose(uniform[:, 0])
        means, scales, k = (
            field.gather(2, chosen[:, None, None].expand(-1, 3, -1, -1, -1)).squeeze(2)
            for field in (self.means, self.log_scales.exp(), self.coefficients)
        )
        uniform = torch.cat([rest[:, None], uniform[:, 1:]], dim=1)
        uniform = UNIFORM_MARGIN + (1 - 2 * UNIFORM_MARGIN) * uniform
        return self._chained(means + scales * uniform.logit(), k)

    def _choose(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Component ``(B, H, W)`` and the place in its share, in [0, 1], of uniform numbers."""
        weights = self.logits.softmax(1)
        ends = weights.cumsum(1)
        chosen = (uniform[:, None] > ends[:, :-1]).sum(1, keepdim=True)
        # Rounding can choose a component of no weight: its share must not become 0 / 0.
        least = torch.finfo(weights.dtype).eps
        end, weight = ends.gather(1, chosen), weights.gather(1, chosen).clamp(min=least)
        rest = 1 - (end - uniform[:, None]) / weight
        return chosen.squeeze(1), rest.squeeze(1).clamp(0, 1)

    @property
    def mean(self) -> Tensor:
        """The image of the average component, clamped to [0, 1]."""
        weights = self.logits.softmax(1)[:, None]
        return self._chained((weights * self.means).sum(2), (weights * self.coefficients).sum(2))

    @staticmethod
    def _chained(values: Tensor, coefficients: Tensor) -> Tensor:
        """Add what colours owe to each other and map to [0, 1]; both ``(B, 3, H, W)``."""
        k = coefficients
        red = values[:, 0].clamp(-1, 1)
        green = (values[:, 1] + k[:, 0] * red).clamp(-1, 1)
        blue = (values[:, 2] + k[:, 1] * red + k[:, 2] * green).clamp(-1, 1)
        return (torch.stack([red, green, blue], dim=1) + 1) / 2

    def floored(self) -> Self:
        """Itself: its scales are bounded already."""
        return self


def density_of(likelihood: Likelihood) -> DiagonalNormal:
    """p(x|z) as a density of the image's own values, which are not clamped.

    Raises:
        UsageError: If p(x|z) is not Gaussian.
    """
    if isinstance(likelihood, DiagonalNormal):
        return likelihood
    if isinstance(likelihood, GaussianPixels):
        return DiagonalNormal(likelihood.mean, likelihood.normal.scale / 2)
    kind = type(likelihood).__name__
    raise UsageError(f"JointSpace needs a Gaussian p(x|z), but this VAE has {kind}: use NoiseSpace")
