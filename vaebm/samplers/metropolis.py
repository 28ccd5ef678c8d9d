"""Metropolis-Hastings: propose, test, move or stay."""

from abc import abstractmethod
from math import inf

import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import uniform
from vaebm.samplers.adaptation import DualAveraging
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, value_and_grad
from vaebm.samplers.schedule import Schedule, factor


def accept_probability(log_ratio: Tensor) -> Tensor:
    """min(1, exp(log ratio)), ``(B,)``; NaN, where U overflowed, is never accepted."""
    return log_ratio.nan_to_num(nan=-torch.inf).clamp(max=0).exp()


def known(chain: Chain, potential: Potential, *, grad: bool = True) -> Chain:
    """The chain with U, and if asked with ∂U/∂x, evaluated only where they are not known."""
    if chain.potential is not None and (chain.grad is not None or not grad):
        return chain
    if grad:
        value, slope = value_and_grad(potential, chain.state)
        return chain._replace(potential=value, grad=slope)
    with torch.no_grad():
        return chain._replace(potential=potential(chain.state))


def move_or_stay(
    chain: Chain, proposal: Chain, accept_prob: Tensor, *, generator: Generator | None
) -> Chain:
    """Each chain at its proposal with probability `accept_prob`, else where it was.

    Args:
        chain: Where the chains stand.
        proposal: Where they would go; U and gradient are kept where they are known on both sides. A
            gradient that only `chain` knows is NaN where the chain moved.
        accept_prob: Probabilities, ``(B,)``.
        generator: Source of the decisions.
    """
    draws = uniform(len(accept_prob), generator=generator, device=accept_prob.device)
    accepted = draws < accept_prob

    def choose(new: Tensor | None, old: Tensor | None) -> Tensor | None:
        if old is None:
            return None
        if new is None:
            new = torch.full_like(old, torch.nan)
        return torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    state = choose(proposal.state, chain.state)
    assert state is not None
    value = choose(proposal.potential, chain.potential)
    grad = choose(proposal.grad, chain.grad)
    return Chain(state, value, grad, memory=chain.memory, progress=chain.progress)


def grad_norm(chain: Chain) -> Tensor:
    """‖∂U/∂x‖, ``(B,)``; zero where the gradient is not known."""
    if chain.grad is None:
        return torch.zeros_like(chain.state[:, 0])
    norm: Tensor = chain.grad.norm(dim=1)
    return norm.nan_to_num(nan=0.0)


class MetropolisSampler(Sampler):
    """A kernel with a step size and a Metropolis test; kinds differ in their proposal.

    Args:
        num_steps: Steps of a chain.
        step_size: Step size, > 0; its meaning is the kind's.
        schedule: Factor on the step size along the chain; None keeps it.
        adaptation: Finds each chain's step size in the first steps of a long chain; None does not.
    """

    def __init__(
        self,
        num_steps: int,
        step_size: float,
        schedule: Schedule | None,
        adaptation: DualAveraging | None,
    ) -> None:
        super().__init__(num_steps)
        if not 0 < step_size < inf:
            raise UsageError(f"step_size is {step_size}, but must be above 0")
        if schedule is not None and adaptation is not None:
            raise UsageError(
                "a schedule changes the step size and an adaptation finds it: give one of the two"
            )
        self.step_size = step_size
        self.schedule = schedule
        self.adaptation = adaptation

    @property
    def leaves_target(self) -> bool:
        """True, unless step sizes adapt to where the chain has been."""
        return self.adaptation is None

    def first(self, state: Tensor) -> Chain:
        """Chains at their first states, with the step sizes to adapt."""
        start = None if self.adaptation is None else self.adaptation.start(self.step_size, state)
        return Chain(state, memory=start)

    @abstractmethod
    def propose(
        self, potential: Potential, chain: Chain, step_size: Tensor, generator: Generator | None
    ) -> tuple[Chain, Tensor]:
        """Propose a move.

        Args:
            potential: U of the target.
            chain: Where the chains stand, with U and gradient.
            step_size: Step sizes, ``(B, 1)``.
            generator: Source of all randomness.

        Returns:
            The proposal with U and gradient, and log [π(y) q(x|y) / π(x) q(y|x)], ``(B,)``.
        """

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Propose a move of every chain, and make it or stay."""
        chain = known(chain, potential)
        step_size = self._step_size(chain) * factor(self.schedule, chain.progress)
        proposal, log_ratio = self.propose(potential, chain, step_size, generator)
        accept_prob = accept_probability(log_ratio)
        chain = self.decide(chain, proposal, accept_prob, generator)
        if self.adaptation is not None:
            sizes = self.adaptation.update(chain.memory, accept_prob, self.step_size)
            chain = chain._replace(memory=sizes)
        assert chain.potential is not None
        return chain, StepInfo(chain.potential, grad_norm(chain), accept_prob)

    def decide(
        self, chain: Chain, proposal: Chain, accept_prob: Tensor, generator: Generator | None
    ) -> Chain:
        """Move with the probabilities `accept_prob`."""
        return move_or_stay(chain, proposal, accept_prob, generator=generator)

    def _step_size(self, chain: Chain) -> Tensor:
        """The step sizes, ``(B, 1)``."""
        if self.adaptation is None:
            return chain.state.new_full((len(chain.state), 1), self.step_size)
        log_step: Tensor = chain.memory.log_step
        return log_step.exp()[:, None]
