"""Unadjusted Langevin dynamics, against its stationary law on a normal target."""

import pytest
import torch
from torch import Tensor

from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.noise import generator_for
from vaebm.samplers.langevin import LangevinSampler, langevin_move

CHAINS = 20_000
SIGMAS = 5


def test_move_follows_its_formula() -> None:
    state, grad, noise = torch.tensor([[[1.0, -2.0]], [[3.0, 4.0]], [[0.5, -1.0]]])
    moved = langevin_move(state, grad, noise, step_size=0.16, noise_scale=0.5)
    # x − 0.08 g + 0.4 · 0.5 ω
    torch.testing.assert_close(moved, torch.tensor([[1 - 0.24 + 0.1, -2 - 0.32 - 0.2]]))


def test_move_has_full_noise_by_default() -> None:
    noise = torch.randn(2, 3)
    moved = langevin_move(torch.zeros(2, 3), torch.zeros(2, 3), noise, step_size=0.25)
    torch.testing.assert_close(moved, 0.5 * noise)


def test_step_moves_along_the_gradient_where_the_chain_stands() -> None:
    start = torch.randn(4, 3)
    sampler = LangevinSampler(1, step_size=0.2, noise_scale=0.7)
    state, _ = sampler.run(half_square, start, generator=generator_for(1))
    noise = torch.randn(4, 3, generator=generator_for(1))
    torch.testing.assert_close(state, langevin_move(start, start, noise, 0.2, 0.7))


def test_info_holds_potential_and_gradient_norm_where_the_step_began() -> None:
    start = torch.randn(4, 3)
    _, info = LangevinSampler(1).run(half_square, start)
    torch.testing.assert_close(info.potential[0], half_square(start))
    torch.testing.assert_close(info.grad_norm[0], start.norm(dim=1))


def stationary(step_size: float, centre: float = 0.0) -> Tensor:
    """Chain ends on N(centre, 1), started far off; 1 − η/2 contracts the start by 1e-6 or more."""
    sampler = LangevinSampler(50, step_size=step_size)
    start = torch.full((CHAINS, 1), 3.0)
    state, _ = sampler.run(lambda x: half_square(x - centre), start, generator=generator_for(0))
    return state[:, 0].double()


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
def test_stationary_variance_on_a_standard_normal_is_the_known_one(step_size: float) -> None:
    expected = 1 / (1 - step_size / 4)
    error = expected * (2 / CHAINS) ** 0.5
    assert abs(stationary(step_size).var() - expected) < SIGMAS * error


@pytest.mark.parametrize("centre", [0.0, -1.5])
def test_stationary_mean_is_that_of_the_target(centre: float) -> None:
    expected_variance = 1 / (1 - 1.0 / 4)
    error = (expected_variance / CHAINS) ** 0.5
    assert abs(stationary(1.0, centre).mean() - centre) < SIGMAS * error


def test_small_noise_scale_shrinks_the_stationary_variance_by_its_square() -> None:
    sampler = LangevinSampler(50, step_size=1.0, noise_scale=0.5)
    state, _ = sampler.run(half_square, torch.zeros(CHAINS, 1), generator=generator_for(0))
    expected = 0.25 / (1 - 1.0 / 4)
    assert abs(state.var() - expected) < SIGMAS * expected * (2 / CHAINS) ** 0.5


def test_zero_noise_scale_is_gradient_descent() -> None:
    start = torch.randn(4, 3)
    state, _ = LangevinSampler(7, step_size=0.3, noise_scale=0.0).run(half_square, start)
    torch.testing.assert_close(state, (1 - 0.15) ** 7 * start)


@pytest.mark.parametrize(
    "kwargs",
    [{"num_steps": 0}, {"step_size": 0.0}, {"step_size": -1.0}, {"noise_scale": -0.1}],
)
def test_bad_arguments_raise(kwargs: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        LangevinSampler(**kwargs)  # type: ignore[arg-type]
