"""The bound that Adam's own state puts on the next gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@torch.no_grad()
def bound_gradients(optimizer: Optimizer, factor: float = 3.0, slack: float = 0.1) -> None:
    """Clamp each gradient element to ± (3 √(v / (1 − β₂ᵗ)) + 0.1).

    v and t are Adam's second moment and number of steps before this one, so that a gradient far
    beyond what its parameter has seen so far is cut. Parameters without a step yet, and optimisers
    without a second moment, are left alone.

    Args:
        optimizer: Adam or a relative of it.
        factor: What √v̂ is multiplied by.
        slack: What is added.

    References:
        Improved Contrastive Divergence Training of Energy-Based Models (Du, Li, Tenenbaum,
        Mordatch, 2021).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if parameter.grad is not None and "exp_avg_sq" in state:
                bound = factor * _root_second_moment(state, group["betas"][1]) + slack
                parameter.grad.clamp_(-bound, bound)


def _root_second_moment(state: dict[str, Any], beta: float) -> Tensor:
    # Adam counts steps in float32, in which 1 - beta**t would lose five digits.
    steps = torch.as_tensor(state["step"], dtype=torch.float64)
    root: Tensor = (state["exp_avg_sq"] / (1 - beta**steps)).sqrt()
    return root
