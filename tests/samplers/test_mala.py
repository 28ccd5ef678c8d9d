"""Metropolis-adjusted Langevin: proposal and test of `LangevinSampler`'s own formulas."""

import torch
from torch import Tensor

from tests.toys import half_square
from vaebm.noise import generator_for
from vaebm.samplers import MALASampler
from vaebm.samplers.langevin import langevin_move
from vaebm.samplers.metropolis import known


def test_proposal_is_a_langevin_move() -> None:
    sampler, start = MALASampler(step_size=0.3), torch.randn(4, 3)
    chain = known(sampler.first(start), half_square)
    proposal, _ = sampler.propose(half_square, chain, torch.full((4, 1), 0.3), generator_for(1))
    noise = torch.randn(4, 3, generator=generator_for(1))
    torch.testing.assert_close(proposal.state, langevin_move(start, start, noise, 0.3))


def test_chains_move_where_the_test_accepts_and_stay_elsewhere() -> None:
    start = torch.randn(1000, 3, generator=generator_for(1))
    state, info = MALASampler(1, step_size=2.0).run(half_square, start, generator=generator_for(2))
    moved = (state != start).any(dim=1)
    assert info.accept_prob is not None
    expected = float(info.accept_prob.mean())
    assert 0.2 < expected < 0.9
    assert abs(float(moved.float().mean()) - expected) < 5 * 0.5 / 1000**0.5


def test_one_gradient_a_step_and_one_at_the_start() -> None:
    calls = 0

    def counted(state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return half_square(state)

    MALASampler(7).run(counted, torch.randn(2, 3))
    assert calls == 8


def test_info_is_of_the_end_of_the_step() -> None:
    start = torch.randn(50, 3)
    state, info = MALASampler(1).run(half_square, start)
    torch.testing.assert_close(info.potential[0], half_square(state))
    torch.testing.assert_close(info.grad_norm[0], state.norm(dim=1))


def test_energy_that_overflows_is_never_entered() -> None:
    def walled(state: Tensor) -> Tensor:
        return half_square(state) + torch.where(state[:, 0] > 0, torch.nan, 0.0)

    start = -torch.rand(200, 2, generator=generator_for(1))
    state, _ = MALASampler(20, step_size=1.0).run(walled, start, generator=generator_for(2))
    assert (state[:, 0] <= 0).all()
