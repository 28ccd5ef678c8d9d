"""Where a chain lives and which potential it feels."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Generator, Tensor

from vaebm.configurable import Configurable
from vaebm.errors import UsageError
from vaebm.models.base import VAE, Energy
from vaebm.noise import standard_normal, uniform
from vaebm.registry import Registry
from vaebm.samplers.base import Potential


class Space(Configurable, ABC):
    """A space for chains: how they start, what they feel, which image a state stands for.

    A space holds no state. Chains are flat tensors ``(B, D)``; only the space knows how D splits.

    Attributes:
        includes_vae: Whether the model is p_θ(x) exp(−E(x)), or exp(−E(x)) alone.
        description: How its chains differ from those in noise space, such as "on x".
    """

    includes_vae = True
    description = ""

    @abstractmethod
    def start(self, vae: VAE, batch_size: int, *, generator: Generator | None) -> Tensor:
        """Draw chain starts.

        Args:
            vae: The frozen VAE.
            batch_size: Number of chains B.
            generator: Source of the noise.

        Returns:
            States, ``(B, D)``, on the device of the VAE.
        """

    @abstractmethod
    def potential(self, vae: VAE, energy: Energy) -> Potential:
        """The potential U of the chains' target, density ∝ exp(−U).

        Args:
            vae: The frozen VAE.
            energy: The energy network E.
        """

    def latents(self, vae: VAE, state: Tensor) -> Tensor:
        """The part of states whose size shows where chains run away to: all of them here.

        Args:
            vae: The frozen VAE.
            state: States, ``(B, D)``.
        """
        return state

    @abstractmethod
    def image(self, vae: VAE, state: Tensor, *, mean: bool = False) -> Tensor:
        """The images that states stand for.

        Args:
            vae: The frozen VAE.
            state: States, ``(B, D)``.
            mean: Take the decoder's mean instead of a sample, where the space has a decoder.

        Returns:
            Images, ``(B, C, H, W)``, or ``(B, 2)`` for toys.
        """


spaces: Registry[Space] = Registry("vaebm.spaces", Space)


def prior_noise(vae: VAE, batch_size: int, *, generator: Generator | None) -> Tensor:
    """Draw ε ~ N(0, I) of all groups, ``(B, D)``, on the device of the VAE."""
    device = next(vae.parameters()).device
    return standard_normal(batch_size, vae.noise_dim, generator=generator, device=device)


@spaces.register
class NoiseSpace(Space):
    """Chains in the VAE's noise space, x = T(ε) (Eq. 8 and Appendix B).

    ``prior="noise"``: U(ε) = E(T(ε)) + ½‖ε‖². The change of variables from (z, x) to ε cancels the
    VAE's scales, which is the paper's density.

    ``prior="joint"``: U(ε) = E(T(ε)) − log p(z) − log p(x|z), as in the published code (which
    also bounds the pixel scale of log p(x|z) from below; that is up to the VAE's `log_joint`). It
    leaves the Jacobian out, so that it differs from the paper's by Σ log σ wherever a scale
    depends on earlier noise. Both have the same gradient where scales are fixed and no pixel is
    clamped.

    Args:
        prior: ``noise`` (the paper) or ``joint`` (the published code).
    """

    def __init__(self, prior: Literal["noise", "joint"] = "noise") -> None:
        if prior not in ("noise", "joint"):
            raise UsageError(f"prior is {prior!r}, but 'noise' or 'joint' is due")
        self.prior = prior

    def start(self, vae: VAE, batch_size: int, *, generator: Generator | None) -> Tensor:
        """Draw from the prior, N(0, I)."""
        return prior_noise(vae, batch_size, generator=generator)

    def potential(self, vae: VAE, energy: Energy) -> Potential:
        """U(ε), with the prior term that `prior` names."""

        def noise_prior(eps: Tensor) -> Tensor:
            value: Tensor = energy(vae.decode(eps).image) + 0.5 * eps.square().sum(1)
            return value

        def joint_prior(eps: Tensor) -> Tensor:
            decoded = vae.decode(eps)
            value: Tensor = energy(decoded.image) - decoded.log_joint
            return value

        return noise_prior if self.prior == "noise" else joint_prior

    def latents(self, vae: VAE, state: Tensor) -> Tensor:
        """The latents' noise: pixels are most of a state and hardly move."""
        return state[:, : vae.latent_dim]

    def image(self, vae: VAE, state: Tensor, *, mean: bool = False) -> Tensor:
        """Decode noise."""
        decoded = vae.decode(state)
        return decoded.mean if mean else decoded.image


@spaces.register
class JointSpace(Space):
    """Chains on (z, x) itself: U(z, x) = E(x) − log p(z) − log p(x|z) (Appendix B.1).

    For comparison only. The model is that of `NoiseSpace`, but each latent group and pixel has a
    scale of its own here: a step size that the narrowest can bear hardly moves the wide ones.
    Chains start from the prior's (z, x). As in T(ε), E sees x clamped to [0, 1]; the rest of U
    does not, so that pixels come back. p(x|z) must be Gaussian.
    """

    description = "on (z, x)"

    def start(self, vae: VAE, batch_size: int, *, generator: Generator | None) -> Tensor:
        """Draw (z, x) from the VAE."""
        return vae.joint_state(prior_noise(vae, batch_size, generator=generator))

    def potential(self, vae: VAE, energy: Energy) -> Potential:
        """U(z, x)."""

        def joint(state: Tensor) -> Tensor:
            decoded = vae.decode_joint(state)
            value: Tensor = energy(decoded.image) - decoded.log_joint
            return value

        return joint

    def latents(self, vae: VAE, state: Tensor) -> Tensor:
        """The latents' values: pixels are most of a state and hardly move."""
        return state[:, : vae.latent_dim]

    def image(self, vae: VAE, state: Tensor, *, mean: bool = False) -> Tensor:
        """The image that x stands for, or the decoder's mean at z."""
        decoded = vae.decode_joint(state)
        return decoded.mean if mean else decoded.image


@spaces.register
class DataSpace(Space):
    """Chains on the image itself, U(x) = E(x): the paper's baselines "EBM on x" (Table 4).

    Args:
        init: Chains start from ``uniform`` noise or from samples of the ``vae``.
        low: Lower end of the uniform noise.
        high: Upper end of the uniform noise.
    """

    includes_vae = False

    def __init__(
        self, init: Literal["uniform", "vae"] = "uniform", low: float = 0.0, high: float = 1.0
    ) -> None:
        if init not in ("uniform", "vae"):
            raise UsageError(f"init is {init!r}, but 'uniform' or 'vae' is due")
        if low >= high:
            raise UsageError(f"uniform noise from low={low} to high={high} is empty")
        self.init = init
        self.description = "on x" if init == "uniform" else "on x, from VAE samples"
        self.low = low
        self.high = high

    def start(self, vae: VAE, batch_size: int, *, generator: Generator | None) -> Tensor:
        """Draw uniform noise or VAE samples, flat."""
        if self.init == "vae":
            return vae.decode(prior_noise(vae, batch_size, generator=generator)).image.flatten(1)
        dim, device = vae.image_shape.numel(), next(vae.parameters()).device
        noise = uniform(batch_size, dim, generator=generator, device=device)
        return self.low + (self.high - self.low) * noise

    def potential(self, vae: VAE, energy: Energy) -> Potential:
        """U(x) = E(x)."""
        return lambda state: energy(state.unflatten(1, vae.image_shape))

    def image(self, vae: VAE, state: Tensor, *, mean: bool = False) -> Tensor:
        """The state itself, unflattened."""
        image: Tensor = state.unflatten(1, vae.image_shape)
        return image
