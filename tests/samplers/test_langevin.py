"""Unadjusted Langevin dynamics: its stationary law, and what a Metropolis test would say of it."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.noise import generator_for
from vaebm.samplers.base import Chain, Potential, value_and_grad
from vaebm.samplers.langevin import LangevinSampler, langevin_log_ratio, langevin_move

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


# What a Metropolis test would say


def quartic(state: Tensor) -> Tensor:
    """U = ¼ x₁⁴ + ½ (x₂ − x₁²)², a banana with steep sides."""
    x, y = state.unbind(1)
    return 0.25 * x**4 + 0.5 * (y - x**2) ** 2


def at(potential: Potential, state: Tensor) -> Chain:
    return Chain(state, *value_and_grad(potential, state))


def metropolis_log_ratio(potential: Potential, x: Tensor, y: Tensor, step_size: float) -> Tensor:
    """log π(y) q(x|y) / (π(x) q(y|x)) with q(y|x) = N(x − (η/2) g(x), η)."""

    def log_move(start: Tensor, end: Tensor) -> Tensor:
        mean = start - step_size / 2 * value_and_grad(potential, start)[1]
        return Normal(mean, step_size**0.5).log_prob(end).sum(1)

    return potential(x) - potential(y) + log_move(y, x) - log_move(x, y)


@pytest.mark.parametrize("step_size", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("potential", [quartic, half_square])
def test_log_ratio_is_that_of_target_and_proposal(potential: Potential, step_size: float) -> None:
    x, y = 1.5 * torch.randn(2, 50, 2, dtype=torch.float64)
    found = langevin_log_ratio(at(potential, x), at(potential, y), step_size)
    expected = metropolis_log_ratio(potential, x, y, step_size)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_log_ratio_of_the_way_back_is_the_opposite() -> None:
    x, y = (at(quartic, torch.randn(50, 2, dtype=torch.float64)) for _ in range(2))
    there, back = langevin_log_ratio(x, y, 0.3), langevin_log_ratio(y, x, 0.3)
    torch.testing.assert_close(there, -back, rtol=1e-12, atol=1e-12)


def mala_acceptance(step_size: float) -> float:
    """E[min(1, π(y) q(x|y) / (π(x) q(y|x)))] of a move from N(0, 1), by quadrature."""
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    x, omega = (axis.reshape(-1, 1) for axis in torch.meshgrid(grid, grid, indexing="ij"))
    y = (1 - step_size / 2) * x + step_size**0.5 * omega
    ratio = metropolis_log_ratio(half_square, x, y, step_size).clamp(max=0).exp()
    density = (-half_square(torch.cat([x, omega], 1))).exp() / (2 * torch.pi)
    return float((density * ratio).sum() * (grid[1] - grid[0]) ** 2)


@pytest.mark.parametrize("step_size", [0.3, 1.5])
def test_acceptance_on_a_standard_normal_is_that_of_mala(step_size: float) -> None:
    start = torch.randn(CHAINS, 1, generator=generator_for(3))
    _, info = LangevinSampler(2, step_size).run(half_square, start, generator=generator_for(0))
    assert info.accept_prob is not None
    found, expected = info.accept_prob[1].double(), mala_acceptance(step_size)
    assert expected < 0.99
    assert abs(found.mean() - expected) < SIGMAS * found.std() / CHAINS**0.5


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_acceptance_is_told_from_the_second_step_on(num_steps: int) -> None:
    _, info = LangevinSampler(num_steps, 0.1).run(quartic, torch.randn(20, 2))
    assert info.accept_prob is not None
    assert info.accept_prob.shape == (num_steps, 20)
    assert (info.accept_prob[0] == 1).all()
    assert ((info.accept_prob[1:] >= 0) & (info.accept_prob[1:] <= 1)).all()


def test_acceptance_of_a_chain_that_explodes_is_zero() -> None:
    # U overflows. As NaN it would drop out of the mean that warns of a divergence.
    _, info = LangevinSampler(4, 1.0).run(quartic, torch.full((3, 2), 1e4))
    assert info.accept_prob is not None
    assert info.accept_prob[1:].tolist() == [[0.0] * 3] * 3


def test_acceptance_is_that_of_the_move_before() -> None:
    start, sampler = torch.randn(20, 2), LangevinSampler(3, 0.5)
    ends = [sampler.run(quartic, start, num_steps=k, generator=generator_for(0))[0] for k in (1, 2)]
    _, info = sampler.run(quartic, start, generator=generator_for(0))
    for row, (x, y) in enumerate(pairwise([start, *ends]), 1):
        expected = metropolis_log_ratio(quartic, x, y, 0.5).clamp(max=0).exp()
        assert info.accept_prob is not None
        torch.testing.assert_close(info.accept_prob[row], expected, rtol=1e-3, atol=1e-5)


def test_gradient_descent_has_no_acceptance() -> None:
    _, info = LangevinSampler(3, 0.1, noise_scale=0.0).run(half_square, torch.randn(4, 2))
    assert info.accept_prob is None


def test_acceptance_with_less_noise_is_that_at_a_lower_temperature() -> None:
    start, c = torch.randn(20, 2), 0.5
    cold = LangevinSampler(4, 0.4 * c**2).run(
        lambda x: quartic(x) / c**2, start, generator=generator_for(0)
    )
    scaled = LangevinSampler(4, 0.4, noise_scale=c).run(quartic, start, generator=generator_for(0))
    torch.testing.assert_close(scaled[0], cold[0])
    torch.testing.assert_close(scaled[1].accept_prob, cold[1].accept_prob, rtol=1e-3, atol=1e-5)
