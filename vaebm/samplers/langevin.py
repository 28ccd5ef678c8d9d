"""Unadjusted Langevin dynamics."""

from math import inf

import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import standard_normal
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers, value_and_grad
from vaebm.samplers.metropolis import accept_probability
from vaebm.samplers.schedule import Schedule, factor


def langevin_move(
    state: Tensor,
    grad: Tensor,
    noise: Tensor,
    step_size: float | Tensor,
    noise_scale: float = 1.0,
) -> Tensor:
    """One Langevin move, x − (η/2) ∂U/∂x + √η · c · ω.

    Args:
        state: Positions x, ``(B, D)``.
        grad: ∂U/∂x, ``(B, D)``.
        noise: ω ~ N(0, I), ``(B, D)``.
        step_size: η, a number or ``(B, 1)``.
        noise_scale: c; 1 is Langevin dynamics.
    """
    return state - 0.5 * step_size * grad + step_size**0.5 * noise_scale * noise


def langevin_log_ratio(before: Chain, after: Chain, step_size: float | Tensor) -> Tensor:
    """Logarithm of the Metropolis ratio of a Langevin move x → y, ``(B,)``.

    log [π(y) q(x|y) / π(x) q(y|x)] = U(x) − U(y) + ½ (y − x)·(g(x) + g(y)) + (η/8) (‖g(x)‖² −
    ‖g(y)‖²) with π ∝ exp(−U) and g = ∂U/∂x. It is 0 for exact dynamics; what it falls below is the
    error that the step size makes.

    Args:
        before: x, U and g there.
        after: y, U and g there.
        step_size: η, a number or ``(B,)``.

    References:
        Exponential Convergence of Langevin Distributions and Their Discrete Approximations
        (Roberts, Tweedie, 1996).
    """
    x, potential_x, grad_x, *_ = before
    y, potential_y, grad_y, *_ = after
    assert potential_x is not None
    assert potential_y is not None
    assert grad_x is not None
    assert grad_y is not None
    path = ((y - x) * (grad_x + grad_y)).sum(1)
    norms = grad_x.square().sum(1) - grad_y.square().sum(1)
    return potential_x - potential_y + 0.5 * path + step_size / 8 * norms


@samplers.register
class LangevinSampler(Sampler):
    """Unadjusted Langevin dynamics: x ← x − (η/2) ∂U/∂x + √η · c · ω, ω ~ N(0, I).

    The bias is of order η: on N(0, 1) the stationary variance is 1/(1 − η/4). In noise space all
    coordinates have the same scale, so one step size serves every latent group. The first sign of
    a step size too large for an energy is a falling ``accept_prob``: what a Metropolis test would
    have said of the moves.

    Args:
        num_steps: Steps of a chain; 10 for CIFAR-10.
        step_size: η > 0; 8e-5 for CIFAR-10.
        noise_scale: c ≥ 0, factor on the noise; 1 is Langevin dynamics, smaller values sharpen.
        schedule: Factor on η along the chain; None keeps η.
        noise_schedule: Factor on c along the chain; None keeps c.

    References:
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), Eq. 3 and section 3.2.
    """

    def __init__(
        self,
        num_steps: int = 10,
        step_size: float = 8e-5,
        noise_scale: float = 1.0,
        schedule: Schedule | None = None,
        noise_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(num_steps)
        if not (0 < step_size < inf and 0 <= noise_scale < inf):
            raise UsageError("LangevinSampler needs step_size > 0 and noise_scale ≥ 0")
        self.step_size = step_size
        self.noise_scale = noise_scale
        self.schedule = schedule
        self.noise_schedule = noise_schedule

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """One move along the gradient where the chain stands, plus noise."""
        value, grad = value_and_grad(potential, chain.state)
        noise = standard_normal(*grad.shape, generator=generator, device=grad.device)
        state = langevin_move(chain.state, grad, noise, *self._scales(chain))
        here = Chain(chain.state, value, grad, progress=chain.progress)
        info = StepInfo(value, grad.norm(dim=1), self._accept_prob(chain.before, here))
        return Chain(state, before=here), info

    def _scales(self, chain: Chain) -> tuple[float, float]:
        """η and c of the move from here."""
        step_size = self.step_size * factor(self.schedule, chain.progress)
        return step_size, self.noise_scale * factor(self.noise_schedule, chain.progress)

    def _accept_prob(self, before: Chain | None, here: Chain) -> Tensor | None:
        """What a Metropolis test of the move that led here would have accepted."""
        if self.noise_scale == 0:
            return None
        if before is None:
            return torch.ones_like(here.state[:, 0])
        step_size, noise_scale = self._scales(before)
        # Less noise is Langevin dynamics at the temperature c² with a step of η c².
        ratio = langevin_log_ratio(before, here, step_size) / noise_scale**2
        return accept_probability(ratio)
