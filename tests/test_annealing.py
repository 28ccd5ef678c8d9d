"""Annealed importance sampling against constants that are known."""

import math

import pytest
import torch
from torch import Generator, Tensor

from tests.samplers.targets import Gaussians25
from vaebm.annealing import AnnealedPath, annealed_weights, sigmoid_betas
from vaebm.errors import DataError, UsageError
from vaebm.metrics.partition import log_mean_weight
from vaebm.noise import generator_for
from vaebm.samplers import (
    Chain,
    HMCSampler,
    IndependenceSampler,
    LangevinSampler,
    MALASampler,
    MixtureSampler,
    PCNLangevinSampler,
    Potential,
    Sampler,
    StepInfo,
)

CHAINS = 4_000
SIGMAS = 5
KERNELS = [
    MALASampler(step_size=0.1),
    HMCSampler(step_size=0.2, num_leapfrog=3),
    PCNLangevinSampler(step_size=0.1),
    IndependenceSampler(),
    MixtureSampler(),
]


def quadratic(state: Tensor) -> Tensor:
    """U = ½‖ε‖² + (3/2)‖ε − 1‖²: log Z = −(D/2) log 4 − (D/2) 3/4."""
    return 0.5 * state.square().sum(1) + 1.5 * (state - 1).square().sum(1)


def exact(dim: int) -> float:
    return -dim / 2 * (math.log(4) + 0.75)


@pytest.mark.parametrize("sampler", KERNELS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("down", [False, True])
def test_constant_of_a_gaussian_is_found(sampler: Sampler, down: bool) -> None:
    dim, path = 3, AnnealedPath(quadratic)
    noise = torch.randn(CHAINS, dim, generator=generator_for(1))
    start = 0.75 + 0.5 * noise if down else noise
    betas = sigmoid_betas(50).flip(0) if down else sigmoid_betas(50)
    annealed = annealed_weights(path, start, betas, sampler, generator=generator_for(2))
    value, error, effective = log_mean_weight(annealed.log_weight)
    assert effective > 100
    assert abs((-value if down else value) - exact(dim)) < SIGMAS * error


def test_chains_end_at_the_model() -> None:
    path = AnnealedPath(quadratic)
    start = torch.randn(10 * CHAINS, 1, generator=generator_for(1))
    sampler = HMCSampler(step_size=0.3)
    state = annealed_weights(
        path, start, sigmoid_betas(100), sampler, generator=generator_for(2)
    ).state
    assert abs(state.mean() - 0.75) < 0.02
    assert abs(state.std() - 0.5) < 0.02


def test_weights_of_one_step_are_those_of_plain_importance_sampling() -> None:
    start = torch.randn(8, 2, generator=generator_for(1))
    annealed = annealed_weights(
        AnnealedPath(quadratic), start, sigmoid_betas(1), MALASampler(), generator=generator_for(2)
    )
    expected = -1.5 * (start - 1).square().sum(1).double()
    torch.testing.assert_close(annealed.log_weight, expected, rtol=1e-5, atol=1e-5)


def test_known_values_are_carried_from_one_temperature_to_the_next() -> None:
    path = AnnealedPath(quadratic)
    sampler = MALASampler(step_size=0.05)
    chain = sampler.first(torch.randn(4, 2).double())
    chain, _ = sampler.step(path.at(1e-6), chain, generator=None)
    carried = path.moved(chain, path.change_of(chain, 1e-6), 1e-6, 0.7)
    state = chain.state.requires_grad_()
    value = path.at(0.7)(state)
    (grad,) = torch.autograd.grad(value.sum(), state)
    assert carried.potential is not None
    assert carried.grad is not None
    torch.testing.assert_close(carried.potential, value, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(carried.grad, grad, rtol=1e-6, atol=1e-5)


def test_schedule_of_the_kernel_is_mirrored_on_the_way_down() -> None:
    class Watched(MALASampler):
        def step(
            self, potential: Potential, chain: Chain, *, generator: Generator | None
        ) -> tuple[Chain, StepInfo]:
            progress.append(chain.progress)
            return super().step(potential, chain, generator=generator)

    progress: list[float] = []
    for betas in (sigmoid_betas(4), sigmoid_betas(4).flip(0)):
        annealed_weights(
            AnnealedPath(quadratic), torch.randn(2, 2), betas, Watched(), generator=None
        )
    assert progress[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert progress[4:] == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_langevin_dynamics_without_test_is_biased() -> None:
    path, dim = AnnealedPath(quadratic), 3
    start = torch.randn(CHAINS, dim, generator=generator_for(1))
    sampler = LangevinSampler(step_size=0.45)
    annealed = annealed_weights(path, start, sigmoid_betas(50), sampler, generator=generator_for(2))
    value, error, _ = log_mean_weight(annealed.log_weight)
    assert abs(value - exact(dim)) > SIGMAS * error


def test_constant_of_25_gaussians_is_that_of_quadrature() -> None:
    target = Gaussians25()
    log_z = target.grid[2]
    path, sampler = AnnealedPath(target), HMCSampler(step_size=0.1)
    noise = torch.randn(CHAINS, 4, generator=generator_for(1))
    up = annealed_weights(path, noise, sigmoid_betas(100), sampler, generator=generator_for(2))
    samples, betas = target.draw(CHAINS, 3), sigmoid_betas(100).flip(0)
    down = annealed_weights(path, samples, betas, sampler, generator=generator_for(4))
    low, low_error, _ = log_mean_weight(up.log_weight)
    high, high_error, _ = log_mean_weight(down.log_weight)
    assert abs(low - log_z) < 0.05
    assert low - 3 * low_error < log_z < -high + 3 * high_error


def test_betas_go_from_the_prior_to_the_model_closest_at_both_ends() -> None:
    betas = sigmoid_betas(100)
    steps = betas.diff()
    assert (float(betas[0]), float(betas[-1])) == (0, 1)
    assert (steps > 0).all()
    assert steps[0] < steps[50] / 4
    torch.testing.assert_close(betas + betas.flip(0), torch.ones_like(betas))


@pytest.mark.parametrize("arguments", [(0,), (10, 0.0)])
def test_bad_schedule_is_refused(arguments: tuple[int]) -> None:
    with pytest.raises(UsageError, match="at least one step and a slope above 0"):
        sigmoid_betas(*arguments)


def test_nan_energy_is_named() -> None:
    path = AnnealedPath(lambda state: state.sum(1) * torch.nan)
    with pytest.raises(DataError, match="NaN or infinite on annealed chains"):
        annealed_weights(path, torch.randn(4, 2), sigmoid_betas(3), MALASampler(), generator=None)


def test_error_and_effective_number_follow_their_formulas() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0]).double()
    value, error, effective = log_mean_weight(weights.log())
    torch.testing.assert_close(value.exp(), torch.tensor(2.0).double())
    torch.testing.assert_close(effective, torch.tensor(36 / 14).double())
    # Variance of the mean over its square, with the variance's divisor N.
    expected = weights.var(correction=0) / 3 / 4
    torch.testing.assert_close(error**2, expected)
