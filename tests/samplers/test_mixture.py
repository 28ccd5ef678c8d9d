"""Mixtures: each chain draws its kernel, and nothing of a chain is lost on the way."""

import pytest
import torch
from torch import Generator, Tensor

from tests.toys import half_square
from vaebm.diagnostics import Counted
from vaebm.errors import UsageError
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers import (
    Chain,
    DualAveraging,
    HMCSampler,
    IndependenceSampler,
    LangevinSampler,
    MALASampler,
    MixtureSampler,
    Potential,
    Sampler,
    StepInfo,
)


class Adding(Sampler):
    """Adds a number to every coordinate; remembers how often."""

    def __init__(self, number: float) -> None:
        super().__init__(1)
        self.number = number

    def first(self, state: Tensor) -> Chain:
        """Count from 0."""
        return Chain(state, memory=(torch.zeros(len(state)),))

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Add."""
        state = chain.state + self.number
        value = potential(state)
        return Chain(state, value, memory=(chain.memory[0] + 1,)), StepInfo(value, 0 * value)


def test_kernels_are_drawn_by_their_weights() -> None:
    sampler = MixtureSampler([Adding(0.0), Adding(1.0)], [3, 1], num_steps=1)
    state, _ = sampler.run(half_square, torch.zeros(10_000, 2), generator=generator_for(1))
    assert torch.equal(state[:, 0], state[:, 1])  # a kernel for the chain, not for a coordinate
    share = float((state[:, 0] == 1).double().mean())
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 10_000) ** 0.5


def test_each_kernel_remembers_its_own_steps() -> None:
    sampler = MixtureSampler([Adding(1.0), Adding(100.0)], num_steps=9)
    start = torch.zeros(50, 1)
    *_, (chain, info) = sampler.iterate(half_square, start, generator=generator_for(1))
    (ones,), (hundreds,) = chain.memory
    torch.testing.assert_close(chain.state[:, 0], ones + 100 * hundreds)
    torch.testing.assert_close(ones + hundreds, torch.full((50,), 9.0))
    torch.testing.assert_close(info.potential, half_square(chain.state))


def test_memory_of_adaptation_counts_the_steps_of_its_kernel() -> None:
    adaptive = MALASampler(adaptation=DualAveraging(burn_in=1000))
    sampler = MixtureSampler([adaptive, IndependenceSampler()], num_steps=20)
    *_, (chain, _) = sampler.iterate(half_square, torch.randn(30, 2), generator=generator_for(1))
    sizes, nothing = chain.memory
    assert nothing is None
    assert 5 < sizes.updates.mean() < 15
    assert not sampler.leaves_target


@pytest.mark.parametrize(("kernel", "gradients"), [(MALASampler(), 1), (HMCSampler(), 5)])
def test_gradients_are_evaluated_only_where_jumps_left_them_unknown(
    kernel: Sampler, gradients: int
) -> None:
    chains, steps = 200, 40
    potential = Counted(half_square)
    jumps = IndependenceSampler()
    sampler = MixtureSampler([jumps, kernel], num_steps=steps)
    start = torch.randn(chains, 2, generator=generator_for(1))
    *_, (chain, _) = sampler.iterate(potential, start, generator=generator_for(2))
    # Every jump is accepted here, so that every second local move follows one, and pays for it.
    local = chains * steps / 2
    spread = 5 * (chains * steps / 4) ** 0.5 * (gradients + 1)
    assert abs(potential.gradients - local * (gradients + 0.5)) < spread
    seen = chain.grad.isfinite().all(dim=1)
    assert 0.3 < seen.float().mean() < 0.7
    torch.testing.assert_close(chain.grad[seen], chain.state[seen])


def test_kernel_that_draws_without_row_streams_draws_anew_at_every_step() -> None:
    class Foreign(Adding):
        def step(
            self, potential: Potential, chain: Chain, *, generator: Generator | None
        ) -> tuple[Chain, StepInfo]:
            self.number = float(torch.randn((), generator=generator))
            numbers.append(self.number)
            return super().step(potential, chain, generator=generator)

    numbers: list[float] = []
    sampler = MixtureSampler([Foreign(0.0)], num_steps=3)
    for seed in (1, 1, 2):
        generator = RowGenerators(seed, range(4))
        sampler.run(half_square, torch.zeros(4, 1), generator=generator)
    assert numbers[:3] == numbers[3:6]
    assert len(set(numbers)) == 6


def test_kernel_without_test_counts_as_accepted_and_its_bias_is_told() -> None:
    sampler = MixtureSampler([LangevinSampler(), Adding(1.0)], num_steps=3)
    _, info = sampler.run(half_square, torch.randn(8, 2), generator=generator_for(1))
    assert info.accept_prob is not None
    assert (info.accept_prob == 1).all()
    assert not sampler.leaves_target


def test_default_is_jumps_and_trajectories() -> None:
    sampler = MixtureSampler()
    assert [type(kernel) for kernel in sampler.kernels] == [IndependenceSampler, HMCSampler]
    assert sampler.weights == (5 / 6, 1 / 6)
    assert sampler.leaves_target


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights for 2 kernels"),
        ([1.0, -1.0], "not all 0"),
        ([torch.inf, 1.0], "not all 0"),
    ],
)
def test_bad_weights_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixtureSampler([IndependenceSampler(), HMCSampler()], weights)


def test_no_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match="for 0 kernels"):
        MixtureSampler([])
