"""Several kernels in one chain."""

from collections.abc import Sequence
from math import inf

import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError
from vaebm.noise import rows_of, uniform
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers, value_and_grad
from vaebm.samplers.hmc import HMCSampler
from vaebm.samplers.independence import IndependenceSampler
from vaebm.samplers.rows import join, put, take


@samplers.register
class MixtureSampler(Sampler):
    """A kernel drawn at every step and for every chain: kernel i with probability ∝ weights[i].

    If each kernel leaves the target as it is, so does the mixture. The default combines jumps
    from the VAE's prior, which find the modes, with trajectories that move within them.

    Args:
        kernels: The kernels; their own `num_steps` are not used. None is five jumps of
            `IndependenceSampler` for each trajectory of `HMCSampler`, with their defaults.
        weights: How often each is drawn, ≥ 0, up to a factor; None is equally often (for the
            default kernels 5 to 1).
        num_steps: Steps of a chain, of whichever kernel.

    References:
        Markov Chains for Exploring Posterior Distributions (Tierney, 1994), section 2.4.
    """

    def __init__(
        self,
        kernels: Sequence[Sampler] | None = None,
        weights: Sequence[float] | None = None,
        num_steps: int = 60,
    ) -> None:
        super().__init__(num_steps)
        if kernels is None:
            kernels, weights = (IndependenceSampler(), HMCSampler()), weights or (5.0, 1.0)
        weights = [1.0] * len(kernels) if weights is None else weights
        if not kernels or len(weights) != len(kernels):
            raise UsageError(f"{len(weights)} weights for {len(kernels)} kernels: one each is due")
        if not (min(weights) >= 0 and 0 < sum(weights) < inf):
            raise UsageError(f"weights are {list(weights)}, but must be ≥ 0 and not all 0")
        self.kernels = tuple(kernels)
        self.weights = tuple(weight / sum(weights) for weight in weights)

    needs_gradient = False  # but its kernels may, and get it

    @property
    def leaves_target(self) -> bool:
        """True if all kernels do."""
        return all(kernel.leaves_target for kernel in self.kernels)

    def first(self, state: Tensor) -> Chain:
        """Chains at their first states, with the memory of every kernel."""
        return Chain(state, memory=tuple(kernel.first(state).memory for kernel in self.kernels))

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Draw a kernel for every chain, and make its step."""
        state = chain.state
        draws = uniform(len(state), generator=generator, device=state.device)
        limits = torch.tensor(self.weights, device=state.device).cumsum(0)[:-1]
        choice = torch.bucketize(draws, limits, right=True)
        memory, parts = list(chain.memory), []
        for index, kernel in enumerate(self.kernels):
            rows = (choice == index).nonzero().squeeze(1)
            if not len(rows):
                continue
            part = take(chain._replace(memory=memory[index], before=None), rows)
            if kernel.needs_gradient:
                part = with_gradient(part, potential)
            moved, info = kernel.step(potential, part, generator=rows_of(generator, rows))
            memory[index] = put(memory[index], rows, moved.memory)
            parts.append((rows, bare(moved), info))
        order = torch.cat([rows for rows, _, _ in parts]).argsort()
        joined = Chain(*join([moved for _, moved, _ in parts], order))
        return joined._replace(memory=tuple(memory)), StepInfo(
            *join([full(info) for _, _, info in parts], order)
        )


def with_gradient(chain: Chain, potential: Potential) -> Chain:
    """The chain with its gradient evaluated where jumps have left it unknown, and nowhere else."""
    if chain.potential is None or chain.grad is None:
        return chain  # nothing is known: the kernel evaluates both at once
    rows = chain.grad.isnan().any(dim=1).nonzero().squeeze(1)
    if not len(rows):
        return chain
    _, grad = value_and_grad(potential, chain.state[rows])
    return chain._replace(grad=chain.grad.index_copy(0, rows, grad))


def bare(chain: Chain) -> Chain:
    """The chain without what only its kernel needs, and a gradient, NaN if it is not known."""
    grad = torch.full_like(chain.state, torch.nan) if chain.grad is None else chain.grad
    return chain._replace(grad=grad, memory=None, before=None)


def full(info: StepInfo) -> StepInfo:
    """The info of a kernel, with acceptance 1 where it has no test."""
    if info.accept_prob is not None:
        return info
    return info._replace(accept_prob=torch.ones_like(info.potential))
