"""Langevin dynamics with a Metropolis test."""

from torch import Generator, Tensor

from vaebm.noise import standard_normal
from vaebm.samplers.adaptation import DualAveraging
from vaebm.samplers.base import Chain, Potential, samplers, value_and_grad
from vaebm.samplers.langevin import langevin_log_ratio, langevin_move
from vaebm.samplers.metropolis import MetropolisSampler
from vaebm.samplers.schedule import Schedule


@samplers.register
class MALASampler(MetropolisSampler):
    """Metropolis-adjusted Langevin algorithm: y = x − (η/2) ∂U/∂x + √η · ω, accepted or not.

    The move of `LangevinSampler`, accepted with probability min(1, π(y) q(x|y) / π(x) q(y|x)): no
    bias at any step size. Steps too long are refused instead of exploding, and chains stand still.
    One gradient a step, and one more a chain.

    Args:
        num_steps: Steps of a chain.
        step_size: η > 0; an acceptance of about 0.57 is the best.
        schedule: Factor on η along the chain; None keeps η.
        adaptation: Finds each chain's η in the first steps of a long chain; None does not.

    References:
        Exponential Convergence of Langevin Distributions and Their Discrete Approximations
        (Roberts, Tweedie, 1996).
    """

    def __init__(
        self,
        num_steps: int = 10,
        step_size: float = 1e-2,
        schedule: Schedule | None = None,
        adaptation: DualAveraging | None = None,
    ) -> None:
        super().__init__(num_steps, step_size, schedule, adaptation)

    def propose(
        self, potential: Potential, chain: Chain, step_size: Tensor, generator: Generator | None
    ) -> tuple[Chain, Tensor]:
        """A Langevin move."""
        assert chain.grad is not None
        noise = standard_normal(*chain.state.shape, generator=generator, device=chain.state.device)
        state = langevin_move(chain.state, chain.grad, noise, step_size)
        proposal = Chain(state, *value_and_grad(potential, state))
        return proposal, langevin_log_ratio(chain, proposal, step_size[:, 0])
