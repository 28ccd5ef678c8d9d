"""Crank-Nicolson Langevin: formula, limit, and its Metropolis ratio against plain densities."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.noise import generator_for
from vaebm.samplers import Chain, PCNLangevinSampler
from vaebm.samplers.base import value_and_grad
from vaebm.samplers.langevin import langevin_move
from vaebm.samplers.pcn import pcn_log_ratio, pcn_move


def bent(state: Tensor) -> Tensor:
    """½‖x‖² + Φ(x) with a Φ of no special form."""
    return (
        half_square(state) + (state.sin() * state.cos().roll(1, 1)).sum(1) + 0.1 * (state**4).sum(1)
    )


@pytest.mark.parametrize("eta", [0.01, 0.7, 4.0])
def test_log_ratio_is_that_of_target_and_proposal_densities(eta: float) -> None:
    x, y = torch.randn(2, 6, 3, dtype=torch.float64)
    step_size = torch.full((6, 1), eta, dtype=torch.float64)
    ends = [Chain(place, *value_and_grad(bent, place)) for place in (x, y)]

    def log_q(target: Tensor, source: Chain) -> Tensor:
        assert source.grad is not None
        slope = source.grad - source.state
        mean = pcn_move(source.state, slope, torch.zeros_like(target), step_size)
        scale = step_size.sqrt() / (1 + step_size / 4)
        return Normal(mean, scale.expand_as(mean)).log_prob(target).sum(1)

    direct = bent(x) - bent(y) + log_q(x, ends[1]) - log_q(y, ends[0])
    torch.testing.assert_close(pcn_log_ratio(*ends, step_size), direct)


def test_small_steps_are_langevin_moves() -> None:
    x, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    _, grad = value_and_grad(bent, x)
    step_size = torch.full((5, 1), 1e-6, dtype=torch.float64)
    moved = pcn_move(x, grad - x, noise, step_size)
    langevin = langevin_move(x, grad, noise, step_size)
    torch.testing.assert_close(moved - x, langevin - x, rtol=1e-3, atol=1e-8)


def test_a_move_keeps_the_square_of_the_reference() -> None:
    eta = torch.tensor([[0.1], [1.0], [4.0]])
    zero, one = torch.zeros(3, 1), torch.ones(3, 1)
    kept, added = pcn_move(one, zero, zero, eta), pcn_move(zero, zero, one, eta)
    torch.testing.assert_close(kept**2 + added**2, one)


def test_every_move_is_accepted_on_the_reference() -> None:
    start = torch.randn(100, 50, generator=generator_for(1))
    _, info = PCNLangevinSampler(5, step_size=1.0).run(half_square, start)
    assert info.accept_prob is not None
    torch.testing.assert_close(info.accept_prob, torch.ones(5, 100), rtol=1e-4, atol=1e-4)


def test_uncorrected_chains_always_move() -> None:
    start = torch.randn(200, 3, generator=generator_for(1))
    sampler = PCNLangevinSampler(1, step_size=2.0, corrected=False)
    state, info = sampler.run(lambda x: 5 * half_square(x), start, generator=generator_for(2))
    assert info.accept_prob is not None
    assert info.accept_prob.mean() < 0.8
    assert (state != start).all()
    assert not sampler.leaves_target


def test_step_beyond_forgetting_is_refused() -> None:
    with pytest.raises(UsageError, match="at 4 a move already forgets its start"):
        PCNLangevinSampler(step_size=4.5)
