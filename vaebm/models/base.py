"""Contracts of the networks: NoiseDecoder, VAE, Energy and their result tuples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import NamedTuple, Self

import torch
from torch import Size, Tensor, nn

from vaebm.configurable import Configurable
from vaebm.errors import UsageError
from vaebm.registry import Registry


class Decoded(NamedTuple):
    """What a decoder makes of noise.

    Attributes:
        image: A sample x, ``(B, C, H, W)`` in [0, 1]; 2-D toys ``(B, 2)`` reals.
        mean: The mean of p(x|z), shaped like `image`; not clamped.
        log_joint: log p(z) + log p(x|z) in nats, ``(B,)``.
    """

    image: Tensor
    mean: Tensor
    log_joint: Tensor


class ElboTerms(NamedTuple):
    """The two sides of the evidence lower bound.

    Attributes:
        log_px: log p(x|z) at a posterior sample, in nats, ``(B,)``.
        kl: KL(q(z|x) ‖ p(z)) per latent group, in nats, ``(B, L)``.
    """

    log_px: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """Log p(x|z) − Σ KL, a lower bound of log p(x), ``(B,)``."""
        return self.log_px - self.kl.sum(1)


class NoiseDecoder(Configurable, nn.Module, ABC):
    """A deterministic map x = T(ε) of standard normal noise to images (Eq. 8).

    All coordinates of ε have the same scale, so that one step size serves every latent group.

    Attributes:
        noise_shapes: Shape of each group's noise, top-down, pixels last.
    """

    noise_shapes: tuple[Size, ...]

    def __init__(self, noise_shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.noise_shapes = tuple(Size(shape) for shape in noise_shapes)

    @property
    def noise_dim(self) -> int:
        """D, the number of noise coordinates of one image."""
        return sum(prod(shape) for shape in self.noise_shapes)

    @property
    def latent_dim(self) -> int:
        """Noise coordinates of the latent groups alone, i.e. without the pixels."""
        return self.noise_dim - prod(self.image_shape)

    @property
    def data_dim(self) -> int:
        """Values of one image that log p(x) is a density of, for bits per dimension."""
        return prod(self.image_shape)

    @property
    def image_shape(self) -> Size:
        """Shape of one image (C, H, W), or (2,) for toys."""
        return self.noise_shapes[-1]

    def split(self, eps: Tensor) -> tuple[Tensor, ...]:
        """Cut flat noise into its groups.

        Args:
            eps: Noise, ``(B, D)``.

        Returns:
            One view per entry of `noise_shapes`, ``(B, *shape)``; no copies.

        Raises:
            ValueError: If `eps` is not ``(B, noise_dim)``.
        """
        if eps.ndim != 2 or eps.shape[1] != self.noise_dim:
            raise ValueError(f"noise of shape {tuple(eps.shape)}, but (B, {self.noise_dim}) is due")
        return _views(eps, self.noise_shapes)

    def split_latents(self, noise: Tensor) -> tuple[Tensor, ...]:
        """Cut noise of the latent groups alone, ``(B, latent_dim)``, as `split` does.

        Raises:
            ValueError: If `noise` is not ``(B, latent_dim)``.
        """
        if noise.ndim != 2 or noise.shape[1] != self.latent_dim:
            raise ValueError(
                f"noise of shape {tuple(noise.shape)}, but (B, {self.latent_dim}) is due"
            )
        return _views(noise, self.noise_shapes[:-1])

    @abstractmethod
    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        """Map noise to an image.

        Args:
            eps: Noise, ``(B, D)``.
            temperature: Factor on the scale of every latent group; 1 is the model itself.

        Returns:
            Image, decoder mean and log p(z) + log p(x|z).
        """


def _views(noise: Tensor, shapes: Sequence[Size]) -> tuple[Tensor, ...]:
    parts = noise.split([prod(shape) for shape in shapes], dim=1)
    return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))


class VAE(NoiseDecoder):
    """A variational autoencoder whose generator is a map of noise."""

    @abstractmethod
    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        """One-sample estimate of the evidence lower bound.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.
            noise: Posterior noise, ``(B, latent_dim)``; drawn afresh if not given.

        Returns:
            log p(x|z) and the KL divergence of each latent group.
        """

    def log_weight(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Logarithm of the importance weight p(x, z) / q(z|x) of a posterior sample.

        Its mean under q is a lower bound of log p(x); the logarithm of the mean weight of K samples
        is a tighter one.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.
            noise: Posterior noise, ``(B, latent_dim)``; drawn afresh if not given.

        Returns:
            Log weights in nats, ``(B,)``.

        Raises:
            UsageError: If this VAE offers none.
        """
        raise UsageError(f"{type(self).__name__} offers no importance weights (log_weight)")

    def reconstruct(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """The decoder's mean at a posterior sample.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.
            noise: Posterior noise, ``(B, latent_dim)``; drawn afresh if not given.

        Returns:
            Images, not clamped, shaped like `image`.

        Raises:
            UsageError: If this VAE offers none.
        """
        raise UsageError(f"{type(self).__name__} offers no reconstructions (reconstruct)")

    def joint_state(self, eps: Tensor) -> Tensor:
        """The latents and the image that noise stands for, as one state of a chain on both.

        Args:
            eps: Noise, ``(B, D)``.

        Returns:
            (z, x), ``(B, D)``: the groups in the order of `noise_shapes`, then x before `clamp`.

        Raises:
            UsageError: If this VAE offers none, or p(x|z) has no density.
        """
        raise UsageError(f"{type(self).__name__} offers no chains on (z, x) (joint_state)")

    def decode_joint(self, state: Tensor) -> Decoded:
        """What the decoder makes of given latents and image.

        Args:
            state: (z, x), ``(B, D)``, as `joint_state` gives it.

        Returns:
            The image that x stands for, the decoder's mean at z, and log p(z) + log p(x|z) of the
            values as they are: the density of (z, x) itself.

        Raises:
            UsageError: If this VAE offers none, or p(x|z) has no density.
        """
        raise UsageError(f"{type(self).__name__} offers no chains on (z, x) (decode_joint)")

    def for_chains(self) -> Self:
        """The same generator with all that is constant during a chain computed, without encoder.

        In evaluation mode alone; later changes of the VAE do not reach it. A VAE that has nothing
        to compute in advance gives itself; chains then run on a copy with constant weights.
        """
        return self

    def clamp(self, x: Tensor) -> Tensor:
        """The image that any real values stand for: in [0, 1]; points stay as they are."""
        return x.clamp(0, 1) if len(self.image_shape) > 1 else x

    def penalty(self) -> Tensor:
        """A scalar that keeps the networks smooth; 0 for a VAE that has none."""
        return next(self.parameters()).new_zeros(())


class Energy(Configurable, nn.Module, ABC):
    """An energy network E(x); low energy means likely: h(x) ∝ p_θ(x) exp(−E(x)) (Eq. 5)."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Energies of images.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.

        Returns:
            Energies, ``(B,)``.
        """

    @abstractmethod
    def penalty(self) -> Tensor:
        """A scalar that keeps the network smooth, e.g. the sum of its layers' spectral norms."""

    @torch.no_grad()
    def require_shape(self, shape: Sequence[int]) -> None:
        """Try the network on images, before a network for other images fails in a chain.

        Args:
            shape: Shape of one image (C, H, W); of toys (2,).

        Raises:
            UsageError: If it fails, or gives anything but a value for each image.
        """
        training, like = self.training, next(self.parameters(), torch.zeros(()))
        try:
            found = self.eval()(like.new_zeros(2, *shape))
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"{type(self).__name__} fails on the VAE's images of shape {tuple(shape)}: {error}"
            ) from error
        finally:
            self.train(training)
        if found.shape != (2,):
            raise UsageError(
                f"{type(self).__name__} gives {tuple(found.shape)} of 2 images, but (2,) is due"
            )

    @property
    def needs_data(self) -> bool:
        """Whether `initialise` is due before training; False for a network that has none."""
        return False

    def initialise(self, image: Tensor) -> None:
        """Set the first weights by data, where `needs_data` says so.

        Args:
            image: Training images, ``(B, C, H, W)`` in [0, 1]; toys ``(B, 2)``.
        """


models: Registry[nn.Module] = Registry("vaebm.models", nn.Module)
