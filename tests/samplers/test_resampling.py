"""Importance resampling, against a Gaussian times a quadratic energy."""

import pytest
import torch
from torch import Generator, Tensor

from tests.toys import QuadraticEnergy, half_square
from vaebm.errors import DataError, UsageError
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers.resampling import ResamplingSampler, log_weights, systematic_choice

SIGMAS = 5


def test_log_weights_are_minus_the_energy_in_noise_space() -> None:
    eps, energy = torch.randn(5, 3), torch.randn(5)
    torch.testing.assert_close(log_weights(energy + half_square(eps), eps), -energy)


def counts(weights: Tensor, number: int, offset: float) -> Tensor:
    chosen = systematic_choice(weights, number, torch.tensor(offset))
    assert len(chosen) == number
    return chosen.bincount(minlength=len(weights)).double()


@pytest.mark.parametrize("number", [1, 7, 100])
@pytest.mark.parametrize("offset", [0.0, 0.3, 0.99])
def test_counts_are_within_one_of_their_expectation(number: int, offset: float) -> None:
    weights = (3 * torch.randn(20, generator=generator_for(number))).double().softmax(0)
    assert ((counts(weights, number, offset) - number * weights).abs() < 1).all()


@pytest.mark.parametrize("number", [1, 7, 100])
def test_counts_are_unbiased_over_offsets(number: int) -> None:
    weights = (3 * torch.randn(20, generator=generator_for(number))).double().softmax(0)
    steps = 1_000
    offsets = [(step + 0.5) / steps for step in range(steps)]
    average = torch.stack([counts(weights, number, offset) for offset in offsets]).mean(0)
    # Each count is a sum of two steps of the offset: the midpoint rule errs by 1/steps at each.
    assert ((average - number * weights).abs() < 2 / steps).all()


def test_equal_weights_choose_every_index_equally_often() -> None:
    assert counts(torch.full((5,), 0.2), 15, 0.5).tolist() == [3.0] * 5


def test_index_of_weight_zero_is_never_chosen_at_the_largest_offset() -> None:
    largest = 1 - 2**-24
    assert counts(torch.tensor([0.0, 1.0, 0.0]), 1000, largest).tolist() == [0.0, 1000.0, 0.0]


CURVATURE, CENTRE = 3.0, 1.0
# N(0, 1) exp(−½ a (x − m)²) is normal with precision 1 + a and mean a m / (1 + a).
VARIANCE = 1 / (1 + CURVATURE)
MEAN = CURVATURE * CENTRE / (1 + CURVATURE)


def potential(state: Tensor) -> Tensor:
    """½‖ε‖² + E(ε) with a quadratic E."""
    with torch.no_grad():
        return half_square(state) + QuadraticEnergy(CURVATURE, CENTRE)(state)


def effective_size(pool: int) -> float:
    """Draws of the target that a pool of weighted prior draws is worth, N (E w)² / E w²."""
    eps = torch.randn(100_000, generator=generator_for(99))
    weights = (-0.5 * CURVATURE * (eps - CENTRE) ** 2).exp()
    return pool * (weights.mean() ** 2 / weights.square().mean()).item()


def assert_target(state: Tensor, size: float) -> None:
    """Mean and variance agree with the target's within the error of `size` independent draws."""
    assert abs(state.mean() - MEAN) < SIGMAS * (VARIANCE / size) ** 0.5
    assert abs(state.var() - VARIANCE) < SIGMAS * VARIANCE * (2 / size) ** 0.5


def test_shared_pool_gives_the_target() -> None:
    sampler = ResamplingSampler(num_candidates=50_000)
    state, _ = sampler.run(potential, torch.zeros(20_000, 1), generator=generator_for(1))
    # The choice adds to the pool's error no more than independent draws would.
    size = 1 / (1 / effective_size(50_000) + 1 / 20_000)
    assert_target(state, size)


def test_pools_of_single_rows_give_the_same_target() -> None:
    chains = 3_000
    generator = RowGenerators(1, range(chains))
    sampler = ResamplingSampler(num_candidates=1_000)
    state, _ = sampler.run(potential, torch.zeros(chains, 1), generator=generator)
    assert_target(state, chains)


def test_constant_energy_leaves_the_prior() -> None:
    sampler = ResamplingSampler(num_candidates=20_000)
    state, _ = sampler.run(half_square, torch.zeros(20_000, 1), generator=generator_for(1))
    assert abs(state.mean()) < SIGMAS * (1 / 20_000) ** 0.5
    assert abs(state.var() - 1) < SIGMAS * (2 / 20_000) ** 0.5


@pytest.mark.parametrize("generator", [None, RowGenerators(1, range(4))])
def test_result_does_not_depend_on_the_start(generator: Generator | None) -> None:
    sampler = ResamplingSampler(num_candidates=50)
    states = []
    for value in (0.0, 100.0):
        source = RowGenerators(1, range(4)) if generator else generator_for(1)
        start = torch.full((4, 2), value)
        states.append(sampler.run(potential, start, generator=source)[0])
    assert torch.equal(*states)


@pytest.mark.parametrize("chunk_size", [1, 7, 50])
def test_chunk_size_does_not_matter(chunk_size: int) -> None:
    results = [
        ResamplingSampler(50, size).run(potential, torch.zeros(4, 2), generator=generator_for(1))
        for size in (chunk_size, 1_000)
    ]
    torch.testing.assert_close(results[0][0], results[1][0])


def test_chunks_bound_how_many_states_are_evaluated_at_once() -> None:
    sizes = []

    def recording(state: Tensor) -> Tensor:
        sizes.append(len(state))
        return half_square(state)

    ResamplingSampler(50, chunk_size=20).run(recording, torch.zeros(4, 2))
    assert sizes == [20, 20, 10]


def test_info_holds_the_potential_of_the_result() -> None:
    state, info = ResamplingSampler(50).run(potential, torch.zeros(4, 2))
    torch.testing.assert_close(info.potential[0], potential(state))


@pytest.mark.parametrize("kwargs", [{"num_candidates": 0}, {"chunk_size": 0}])
def test_bad_arguments_raise(kwargs: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ResamplingSampler(**kwargs)


def test_candidate_with_nan_energy_is_never_chosen() -> None:
    def potential(eps: Tensor) -> Tensor:
        return torch.where(eps[:, 0] > 1, torch.nan, 0.5 * eps.square().sum(1))

    sampler = ResamplingSampler(num_candidates=64)
    state, _ = sampler.run(potential, torch.zeros(100, 2), generator=generator_for(0))
    assert (state[:, 0] <= 1).all()


def test_resampling_stops_when_every_energy_is_nan() -> None:
    with pytest.raises(DataError, match="diverged"):
        ResamplingSampler(num_candidates=8).run(
            lambda eps: eps[:, 0] * torch.nan, torch.zeros(2, 2)
        )


def test_resampling_stops_when_an_energy_is_minus_infinity() -> None:
    def potential(eps: Tensor) -> Tensor:
        return torch.where(eps[:, 0] > 0, -torch.inf, 0.5 * eps.square().sum(1))

    with pytest.raises(DataError, match="diverged"):
        ResamplingSampler(num_candidates=64).run(potential, torch.zeros(2, 2))
