"""What a training of stage 2 logs: the first signs of a divergence are among it."""

from torch import Tensor

from vaebm.samplers.base import StepInfo


def energy_signs(energy_data: Tensor, energy_model: Tensor) -> dict[str, Tensor]:
    """Means of the energies of data and samples, ``(B,)`` each, and the mean of |E|."""
    size = 0.5 * (energy_data.abs().mean() + energy_model.abs().mean())
    means = {"energy_data": energy_data.mean(), "energy_model": energy_model.mean()}
    return {**means, "energy_magnitude": size}


def chain_signs(latents: Tensor, info: StepInfo) -> dict[str, Tensor]:
    """How far chains went and how: `DivergenceGuard` watches these.

    Args:
        latents: Latents at the chains' ends, ``(B, D)``.
        info: Infos of their steps, ``(K, B)`` each.
    """
    signs = {"grad_norm": info.grad_norm.mean(), "state_square": latents.square().mean()}
    if info.accept_prob is not None:
        signs["accept_prob"] = info.accept_prob.mean()
    return signs
