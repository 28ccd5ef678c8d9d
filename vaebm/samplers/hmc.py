"""Hamiltonian Monte Carlo."""

from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import standard_normal, uniform
from vaebm.samplers.adaptation import DualAveraging
from vaebm.samplers.base import Chain, Potential, samplers, value_and_grad
from vaebm.samplers.metropolis import MetropolisSampler
from vaebm.samplers.schedule import Schedule


def leapfrog(
    potential: Potential, chain: Chain, momentum: Tensor, step_size: Tensor, num_leapfrog: int
) -> tuple[Chain, Tensor]:
    """Leapfrog steps of dx/dt = p, dp/dt = −∂U/∂x.

    p ← p − (h/2) g(x), x ← x + h p, p ← p − (h/2) g(x); the half steps between two steps join.

    Args:
        potential: U of the target.
        chain: Where the trajectory starts, with its gradient.
        momentum: p, ``(B, D)``.
        step_size: h, ``(B, 1)``; negative goes back in time.
        num_leapfrog: Steps, one gradient each.

    Returns:
        Where it ends, with U and gradient, and the momentum there.
    """
    state, grad = chain.state, chain.grad
    assert grad is not None
    momentum = momentum - step_size / 2 * grad
    for index in range(num_leapfrog):
        state = state + step_size * momentum
        value, grad = value_and_grad(potential, state)
        share = 1 if index < num_leapfrog - 1 else 0.5
        momentum = momentum - share * step_size * grad
    return Chain(state, value, grad), momentum


@samplers.register
class HMCSampler(MetropolisSampler):
    """Hamiltonian Monte Carlo: p ~ N(0, I), a trajectory of leapfrog steps, a Metropolis test.

    The trajectory's end is accepted with probability min(1, exp(H(x, p) − H(x', p'))) with
    H = U(x) + ½‖p‖². One trajectory goes as far as num_leapfrog² Langevin steps diffuse. A step of
    the chain costs `num_leapfrog` gradients.

    Args:
        num_steps: Trajectories of a chain.
        step_size: h > 0 of the leapfrog steps; a Langevin step of size η goes as far as h = √η.
        num_leapfrog: Leapfrog steps of a trajectory, at least 1; 1 is MALA.
        jitter: j in [0, 1): each trajectory of each chain has its own h · u, u uniform in
            [1 − j, 1 + j], so that no period of the target is met again and again.
        schedule: Factor on h along the chain; None keeps h.
        adaptation: Finds each chain's h in the first steps of a long chain; None does not.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011), sections 3 and 4.2.
    """

    def __init__(
        self,
        num_steps: int = 10,
        step_size: float = 0.05,
        num_leapfrog: int = 5,
        jitter: float = 0.2,
        schedule: Schedule | None = None,
        adaptation: DualAveraging | None = None,
    ) -> None:
        super().__init__(num_steps, step_size, schedule, adaptation)
        if num_leapfrog < 1 or not 0 <= jitter < 1:
            raise UsageError("HMCSampler needs num_leapfrog ≥ 1 and jitter in [0, 1)")
        self.num_leapfrog = num_leapfrog
        self.jitter = jitter

    def propose(
        self, potential: Potential, chain: Chain, step_size: Tensor, generator: Generator | None
    ) -> tuple[Chain, Tensor]:
        """The end of a trajectory."""
        batch_size, device = len(chain.state), chain.state.device
        momentum = standard_normal(*chain.state.shape, generator=generator, device=device)
        spread = 2 * uniform(batch_size, 1, generator=generator, device=device) - 1
        step_size = step_size * (1 + self.jitter * spread)
        end, last = leapfrog(potential, chain, momentum, step_size, self.num_leapfrog)
        assert chain.potential is not None
        assert end.potential is not None
        kinetic = 0.5 * (momentum.square().sum(1) - last.square().sum(1))
        return end, chain.potential - end.potential + kinetic
