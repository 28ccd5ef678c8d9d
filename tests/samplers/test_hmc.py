"""Hamiltonian Monte Carlo: the integrator's properties and what a trajectory costs."""

import pytest
import torch
from torch import Tensor

from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.noise import generator_for
from vaebm.samplers import Chain, HMCSampler, MALASampler
from vaebm.samplers.base import value_and_grad
from vaebm.samplers.hmc import leapfrog
from vaebm.samplers.metropolis import known


def quartic(state: Tensor) -> Tensor:
    return half_square(state) + 0.1 * (state**4).sum(1)


def started() -> tuple[Chain, Tensor]:
    state, momentum = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator_for(1))
    return Chain(state, *value_and_grad(quartic, state)), momentum


def step(size: float) -> Tensor:
    return torch.full((5, 1), size, dtype=torch.float64)


def test_trajectory_comes_back_when_the_momentum_turns() -> None:
    chain, momentum = started()
    end, last = leapfrog(quartic, chain, momentum, step(0.1), 20)
    back, _ = leapfrog(quartic, end, -last, step(0.1), 20)
    torch.testing.assert_close(back.state, chain.state)


def test_map_keeps_volume() -> None:
    chain, momentum = started()

    def whole(place: Tensor) -> Tensor:
        state, p = place.chunk(2)
        grad = state + 0.4 * state**3
        for _ in range(3):
            p = p - 0.15 * grad
            state = state + 0.3 * p
            grad = state + 0.4 * state**3
            p = p - 0.15 * grad
        return torch.cat([state, p])

    place = torch.cat([chain.state[0], momentum[0]])
    end, last = leapfrog(quartic, chain, momentum, step(0.3), 3)
    torch.testing.assert_close(whole(place), torch.cat([end.state[0], last[0]]))
    jacobian = torch.autograd.functional.jacobian(whole, place)
    torch.testing.assert_close(jacobian.det(), torch.ones((), dtype=torch.float64))


def test_energy_error_is_of_second_order() -> None:
    chain, momentum = started()

    def error(size: float, count: int) -> Tensor:
        end, last = leapfrog(quartic, chain, momentum, step(size), count)
        kinetic = 0.5 * (last.square() - momentum.square()).sum(1)
        return (quartic(end.state) - quartic(chain.state) + kinetic).abs().mean()

    assert 3.5 < error(0.04, 25) / error(0.02, 50) < 4.5


def test_one_leapfrog_step_is_a_langevin_move_with_the_same_test() -> None:
    start = torch.randn(6, 3, generator=generator_for(1))
    hmc, mala = HMCSampler(step_size=0.5, num_leapfrog=1, jitter=0.0), MALASampler(step_size=0.25)
    proposals = []
    for sampler in (hmc, mala):
        chain = known(sampler.first(start), quartic)
        size = torch.full((6, 1), sampler.step_size)
        proposals.append(sampler.propose(quartic, chain, size, generator_for(2)))
    (ours, ratio), (theirs, expected) = proposals
    torch.testing.assert_close(ours.state, theirs.state)
    torch.testing.assert_close(ratio, expected, rtol=1e-4, atol=1e-5)


def test_a_trajectory_costs_as_many_gradients_as_it_has_steps() -> None:
    calls = 0

    def counted(state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return half_square(state)

    HMCSampler(4, num_leapfrog=5).run(counted, torch.randn(2, 3))
    assert calls == 1 + 4 * 5


def test_jitter_gives_each_chain_a_length_of_its_own() -> None:
    sampler = HMCSampler(step_size=0.1, num_leapfrog=1, jitter=0.5)
    flat = Chain(torch.zeros(1000, 2), torch.zeros(1000), torch.zeros(1000, 2))

    def level(state: Tensor) -> Tensor:
        return 0 * state.sum(1)

    end, _ = sampler.propose(level, flat, torch.full((1000, 1), 0.1), generator_for(1))
    momentum = torch.randn(1000, 2, generator=generator_for(1))
    ratio = (end.state / momentum)[:, 0]
    assert 0.05 <= ratio.min() < 0.06
    assert 0.14 < ratio.max() <= 0.15


@pytest.mark.parametrize("arguments", [{"num_leapfrog": 0}, {"jitter": 1.0}, {"jitter": -0.1}])
def test_bad_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="HMCSampler needs"):
        HMCSampler(**arguments)  # type: ignore[arg-type]
