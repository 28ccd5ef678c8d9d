"""What stage 2 minimises besides the plain energy gap, as functions of the energies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vaebm.errors import UsageError


def check_contrast(
    contrast: str, gap_scale: float | None, weights: tuple[float, ...], has_decoder: bool
) -> None:
    """Refuse settings of the loss that make no sense."""
    if contrast not in ("sample", "mean"):
        raise UsageError(f"contrast is {contrast!r}, but 'sample' or 'mean' is due")
    if contrast == "mean" and not has_decoder:
        raise UsageError("contrast is 'mean', but chains on images have no decoder mean")
    if gap_scale is not None and gap_scale <= 0:
        raise UsageError(f"gap_scale is {gap_scale}, but it is above 0, or null")
    if min(weights) < 0:
        raise UsageError("weights of penalties and data_init_batches must not be negative")


def gap_loss(gap: Tensor, scale: float | None) -> Tensor:
    """The gap E(x_data) − E(x_model) as a loss, 2τ log(1 + exp(gap / τ)) with τ = scale.

    Its gradient is the gap's times 2σ(gap / τ): 1 where both sides have one energy, 0 where chains
    end far above the data. There they could not follow E, so that their ends say nothing of the
    model, and to push E up further would only leave them further behind.

    Args:
        gap: Mean energy of the data minus that of the chains' ends, a scalar.
        scale: τ in nats; None is the paper's loss, the gap itself.
    """
    return gap if scale is None else 2 * scale * F.softplus(gap / scale)


def magnitude(energy_data: Tensor, energy_model: Tensor) -> Tensor:
    """Mean E(x_data)² + mean E(x_model)², for energies ``(B,)`` each."""
    return energy_data.square().mean() + energy_model.square().mean()


def squared_offset(energy_data: Tensor, energy_model: Tensor) -> Tensor:
    """Square of the mean energy of both sides, for energies ``(B,)`` each.

    The model does not depend on the constant of E. The gap does not hold it, and optimisers that
    normalise gradients, as Adam does, walk along it without end.
    """
    return (0.5 * (energy_data.mean() + energy_model.mean())).square()


def squared_slope(energies: Tensor, image: Tensor) -> Tensor:
    """Mean of ‖∂E/∂x‖² over images, to be differentiated on by the weights.

    With the gap it has a minimum at an E that slopes all the way from the samples to the data: one
    that is steep between them and flat around both costs more. Neither steeper nor flatter energies
    gain anything there.

    Args:
        energies: E of the images, ``(B,)``, computed from `image`.
        image: Images, ``(B, C, H, W)`` or points ``(B, 2)``, that require gradients.

    References:
        Which Training Methods for GANs do actually Converge? (Mescheder, Geiger, Nowozin, 2018).
    """
    (slope,) = torch.autograd.grad(energies.sum(), image, create_graph=True)
    return slope.flatten(1).square().sum(1).mean()
