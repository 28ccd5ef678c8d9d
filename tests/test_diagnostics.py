"""Diagnostics of chains against processes whose autocorrelation is known."""

import pytest
import torch
from torch import Tensor

from tests.toys import half_square
from vaebm.diagnostics import autocorrelation, record, summary
from vaebm.errors import DataError, UsageError
from vaebm.noise import generator_for
from vaebm.samplers import (
    HMCSampler,
    IndependenceSampler,
    LangevinSampler,
    MALASampler,
    MixtureSampler,
    Sampler,
)


def autoregression(phi: float, steps: int, chains: int) -> Tensor:
    """x ← φ x + √(1 − φ²) ω from its stationary law N(0, 1)."""
    noise = torch.randn(steps, chains, generator=generator_for(1))
    values = [noise[0]]
    for row in noise[1:]:
        values.append(phi * values[-1] + (1 - phi**2) ** 0.5 * row)
    return torch.stack(values)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_an_autoregression_is_the_known_one(phi: float) -> None:
    found = summary(autoregression(phi, 2000, 16))
    assert found.autocorrelation == pytest.approx((1 + phi) / (1 - phi), rel=0.15)
    assert found.ess == pytest.approx(32_000 / found.autocorrelation)
    assert found.error == pytest.approx(found.ess**-0.5, rel=0.1)
    assert abs(found.mean) < 5 * found.error
    assert found.rhat < 1.01


def test_autocorrelation_of_an_autoregression_falls_by_a_constant_factor() -> None:
    curve = autocorrelation(autoregression(0.8, 4000, 16))
    assert curve[:5] == pytest.approx([0.8**lag for lag in range(5)], abs=0.03)


def test_chains_that_do_not_agree_are_seen() -> None:
    values = autoregression(0.0, 500, 8) + 3 * (torch.arange(8) % 2)
    assert summary(values).rhat > 1.5
    drifting = autoregression(0.0, 500, 8) + torch.linspace(0, 3, 500)[:, None]
    assert summary(drifting).rhat > 1.2


def test_standing_chains_are_no_error() -> None:
    assert summary(torch.ones(10, 3))[:2] == (1.0, 0.0)


@pytest.mark.parametrize("shape", [(3, 2), (10, 1)])
def test_too_little_to_judge_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 4 steps of 2 chains"):
        summary(torch.randn(shape))


def test_chains_that_left_are_named() -> None:
    with pytest.raises(DataError, match="the chains left"):
        summary(torch.full((10, 2), torch.nan))


@pytest.mark.parametrize(
    ("sampler", "gradients", "values"),
    [
        (LangevinSampler(), 12, 0),
        (MALASampler(), 13, 0),
        (HMCSampler(num_leapfrog=3), 37, 0),
        (IndependenceSampler(), 0, 13),
    ],
)
def test_evaluations_of_a_chain_are_counted(
    sampler: Sampler, gradients: float, values: float
) -> None:
    trace = record(sampler, half_square, torch.randn(5, 2), {}, num_steps=12)
    assert (trace.gradients, trace.evaluations) == (gradients, values)
    assert trace.seconds > 0


def test_rows_of_a_mixture_are_counted_where_they_are_evaluated() -> None:
    sampler = MixtureSampler([IndependenceSampler()] * 3)
    trace = record(sampler, half_square, torch.randn(5, 2), {}, num_steps=12)
    assert (trace.gradients, trace.evaluations) == (0, 13)


def test_trace_is_that_of_the_states_and_the_end_that_of_a_plain_run() -> None:
    start = torch.randn(6, 2)
    trace = record(
        MALASampler(4),
        half_square,
        start,
        {
            "first": lambda chain: chain.state[:, 0],
            "square": lambda chain: half_square(chain.state),
        },
        generator=generator_for(3),
    )
    state, info = MALASampler(4).run(half_square, start, generator=generator_for(3))
    torch.testing.assert_close(trace.values["first"][-1], state[:, 0])
    torch.testing.assert_close(trace.values["square"], info.potential)
    assert trace.accept_prob is not None
    torch.testing.assert_close(trace.accept_prob, info.accept_prob)
    assert torch.equal(trace.state, state)
