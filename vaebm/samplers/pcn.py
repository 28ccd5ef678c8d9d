"""Preconditioned Crank-Nicolson Langevin dynamics: made for densities that bend N(0, I)."""

from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import standard_normal
from vaebm.samplers.adaptation import DualAveraging
from vaebm.samplers.base import Chain, Potential, samplers, value_and_grad
from vaebm.samplers.metropolis import MetropolisSampler
from vaebm.samplers.schedule import Schedule


def pcn_move(state: Tensor, slope: Tensor, noise: Tensor, step_size: Tensor) -> Tensor:
    """One Crank-Nicolson Langevin move on a target ∝ exp(−Φ(x)) N(x; 0, I).

    y = [(1 − η/4) x − (η/2) ∇Φ(x) + √η ω] / (1 + η/4)

    Without Φ it leaves N(0, I) as it is at any η, and for small η it is a Langevin move of the same
    step size. At η = 4 it forgets x.

    Args:
        state: Positions x, ``(B, D)``.
        slope: ∇Φ(x), ``(B, D)``.
        noise: ω ~ N(0, I), ``(B, D)``.
        step_size: η, ``(B, 1)``.
    """
    moved = (1 - step_size / 4) * state - step_size / 2 * slope + step_size.sqrt() * noise
    return moved / (1 + step_size / 4)


def pcn_cost(
    phi: Tensor, before: Tensor, after: Tensor, slope: Tensor, step_size: Tensor
) -> Tensor:
    """ρ(x, y) = Φ(x) + ½⟨y − x, ∇Φ(x)⟩ + (η/8)⟨x + y, ∇Φ(x)⟩ + (η/8)‖∇Φ(x)‖², ``(B,)``.

    A move x → y is accepted with probability min(1, exp(ρ(x, y) − ρ(y, x))).

    Args:
        phi: Φ(x), ``(B,)``.
        before: x, ``(B, D)``.
        after: y, ``(B, D)``.
        slope: ∇Φ(x), ``(B, D)``.
        step_size: η, ``(B, 1)``.
    """
    along = 0.5 * (after - before) + step_size / 8 * (before + after + slope)
    return phi + (along * slope).sum(1)


def pcn_log_ratio(chain: Chain, proposal: Chain, step_size: Tensor) -> Tensor:
    """ρ(x, y) − ρ(y, x) of two points with U and ∂U/∂x, ``(B,)``; Φ = U − ½‖x‖²."""

    def parts(place: Chain) -> tuple[Tensor, Tensor]:
        assert place.potential is not None
        assert place.grad is not None
        return place.potential - 0.5 * place.state.square().sum(1), place.grad - place.state

    (phi_x, slope_x), (phi_y, slope_y) = parts(chain), parts(proposal)
    there = pcn_cost(phi_x, chain.state, proposal.state, slope_x, step_size)
    back = pcn_cost(phi_y, proposal.state, chain.state, slope_y, step_size)
    return there - back


@samplers.register
class PCNLangevinSampler(MetropolisSampler):
    """Preconditioned Crank-Nicolson Langevin dynamics, for targets ∝ exp(−Φ(x)) · N(x; 0, I).

    In noise space Φ(ε) = E(T(ε)), and the normal density is the VAE's prior. The move treats that
    factor exactly, so that only Φ limits the step size η, however many dimensions the noise has:
    y = [(1 − η/4) x − (η/2) ∇Φ(x) + √η ω] / (1 + η/4), accepted with probability
    min(1, exp(ρ(x, y) − ρ(y, x))). One gradient a step, and one more a chain.

    Args:
        num_steps: Steps of a chain.
        step_size: η in (0, 4]; for small η the same as that of Langevin dynamics.
        corrected: Whether a Metropolis test accepts the moves. Without it the chains have a bias,
            but only as far as Φ is there.
        schedule: Factor on η along the chain; None keeps η.
        adaptation: Finds each chain's η in the first steps of a long chain; None does not.

    References:
        MCMC Methods for Functions: Modifying Old Algorithms to Make Them Faster (Cotter, Roberts,
        Stuart, White, 2013), Eq. 4.9 and 4.11 with δ = η/2 and C = I.
    """

    def __init__(
        self,
        num_steps: int = 10,
        step_size: float = 1e-2,
        corrected: bool = True,
        schedule: Schedule | None = None,
        adaptation: DualAveraging | None = None,
    ) -> None:
        super().__init__(num_steps, step_size, schedule, adaptation)
        if step_size > 4:
            raise UsageError(f"step_size is {step_size}, but at 4 a move already forgets its start")
        self.corrected = corrected

    @property
    def leaves_target(self) -> bool:
        """True with a Metropolis test, unless step sizes adapt."""
        return self.corrected and super().leaves_target

    def propose(
        self, potential: Potential, chain: Chain, step_size: Tensor, generator: Generator | None
    ) -> tuple[Chain, Tensor]:
        """A Crank-Nicolson Langevin move."""
        assert chain.grad is not None
        step_size = step_size.clamp(max=4.0)  # adaptation may ask for more
        noise = standard_normal(*chain.state.shape, generator=generator, device=chain.state.device)
        state = pcn_move(chain.state, chain.grad - chain.state, noise, step_size)
        proposal = Chain(state, *value_and_grad(potential, state))
        return proposal, pcn_log_ratio(chain, proposal, step_size)

    def decide(
        self, chain: Chain, proposal: Chain, accept_prob: Tensor, generator: Generator | None
    ) -> Chain:
        """Move with the probabilities `accept_prob`, or always if uncorrected."""
        if self.corrected:
            return super().decide(chain, proposal, accept_prob, generator)
        return proposal._replace(memory=chain.memory, progress=chain.progress)
