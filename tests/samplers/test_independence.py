"""Jumps from the prior: the ratio is that of importance weights."""

import torch
from torch import Tensor

from tests.toys import half_square
from vaebm.noise import generator_for
from vaebm.samplers import Chain, IndependenceSampler
from vaebm.samplers.independence import independence_log_ratio


def energy(state: Tensor) -> Tensor:
    return 3 * torch.sin(2 * state).sum(1)


def target(state: Tensor) -> Tensor:
    return energy(state) + half_square(state)


def test_log_ratio_is_the_difference_of_energies() -> None:
    x, y = torch.randn(2, 7, 3)
    ratio = independence_log_ratio(Chain(x, target(x)), Chain(y, target(y)))
    torch.testing.assert_close(ratio, energy(x) - energy(y), rtol=1e-4, atol=1e-5)


def test_every_jump_is_accepted_where_the_energy_is_constant() -> None:
    _, info = IndependenceSampler(3).run(half_square, torch.randn(10, 3))
    torch.testing.assert_close(info.accept_prob, torch.ones(3, 10), rtol=1e-5, atol=1e-5)


def test_no_gradient_is_asked_for() -> None:
    def without(state: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return target(state)

    IndependenceSampler(3).run(without, torch.randn(10, 3))


def test_chains_jump_between_modes_that_local_moves_never_leave() -> None:
    def walls(state: Tensor) -> Tensor:
        return half_square(state) - 20 * (state.abs() > 1).all(dim=1)

    start = torch.full((500, 2), 1.2)
    state, _ = IndependenceSampler(100).run(walls, start, generator=generator_for(1))
    quadrant = 2 * (state[:, 0] > 0) + (state[:, 1] > 0)
    assert torch.bincount(quadrant, minlength=4).min() > 80
