"""What stage 2 minimises besides the plain energy gap, as functions of the energies."""

import torch.nn.functional as F
from torch import Tensor


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
