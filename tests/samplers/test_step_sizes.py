"""Schedules and adaptation of step sizes."""

import pytest
import torch
from torch import Tensor

from tests.samplers.targets import LEVEL, Gaussian
from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.noise import generator_for
from vaebm.samplers import (
    DualAveraging,
    HMCSampler,
    LangevinSampler,
    MALASampler,
    PCNLangevinSampler,
    Schedule,
)
from vaebm.samplers.langevin import langevin_move


@pytest.mark.parametrize(
    ("shape", "middle"), [("geometric", 0.2), ("linear", 0.52), ("cosine", 0.52)]
)
def test_schedule_goes_from_one_to_its_end(shape: str, middle: float) -> None:
    schedule = Schedule(0.04, shape)  # type: ignore[arg-type]
    factors = [schedule.factor(progress) for progress in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.0, middle, 0.04])


@pytest.mark.parametrize(
    "arguments", [(0.0,), (-1.0, "linear"), (torch.nan, "linear"), (0.5, "square")]
)
def test_bad_schedule_is_refused(arguments: tuple[float]) -> None:
    with pytest.raises(UsageError, match="is due"):
        Schedule(*arguments)


def test_langevin_follows_both_schedules() -> None:
    start = torch.randn(4, 3)
    sampler = LangevinSampler(2, 0.4, 0.5, Schedule(0.1), Schedule(0.0, "linear"))
    state, _ = sampler.run(half_square, start, generator=generator_for(1))
    noise = torch.randn(4, 3, generator=generator_for(1))
    middle = langevin_move(start, start, noise, 0.4, 0.5)
    torch.testing.assert_close(state, langevin_move(middle, middle, 0 * noise, 0.04))


def test_schedule_of_a_step_size_that_adapts_is_refused() -> None:
    with pytest.raises(UsageError, match="give one of the two"):
        MALASampler(schedule=Schedule(), adaptation=DualAveraging())


@pytest.mark.parametrize("kind", [MALASampler, HMCSampler, PCNLangevinSampler, LangevinSampler])
@pytest.mark.parametrize("step_size", [0.0, torch.nan, torch.inf])
def test_step_size_that_is_none_is_refused(kind: type, step_size: float) -> None:
    with pytest.raises(UsageError, match="step_size"):
        kind(step_size=step_size)


@pytest.mark.parametrize("kind", [MALASampler, HMCSampler])
@pytest.mark.parametrize("first", [1e-4, 10.0])
def test_adaptation_finds_the_acceptance_from_steps_far_off(kind: type, first: float) -> None:
    sampler = kind(
        num_steps=600, step_size=first, adaptation=DualAveraging(burn_in=400, target_accept=0.7)
    )
    start = torch.randn(50, 10, generator=generator_for(1))
    _, info = sampler.run(half_square, start, generator=generator_for(2))
    # The mean over burn-in of a curved function: trajectories end somewhat above their target.
    assert abs(float(info.accept_prob[400:].mean()) - 0.7) < 0.1


def test_step_size_stays_after_burn_in() -> None:
    sampler = MALASampler(30, adaptation=DualAveraging(burn_in=10))
    start = torch.randn(5, 2, generator=generator_for(1))
    sizes = [
        chain.memory.log_step
        for chain, _ in sampler.iterate(half_square, start, generator=generator_for(2))
    ]
    assert not torch.equal(sizes[5], sizes[8])
    assert all(torch.equal(size, sizes[9]) for size in sizes[9:])


def test_update_follows_the_published_formula() -> None:
    tuner = DualAveraging(burn_in=10, target_accept=0.8, gamma=0.05, offset=10, decay=0.75)
    sizes = tuner.start(0.1, torch.zeros(1, 2))
    accept = [0.3, 0.9]
    error = mean = log_step = 0.0
    for count, prob in enumerate(accept, 1):
        sizes = tuner.update(sizes, torch.tensor([prob]), 0.1)
        error = (1 - 1 / (count + 10)) * error + (0.8 - prob) / (count + 10)
        log_step = 0.0 - count**0.5 / 0.05 * error  # μ = log(10 · 0.1) = 0
        mean = count**-0.75 * log_step + (1 - count**-0.75) * mean
    expected: Tensor = torch.tensor([[log_step], [mean], [error]])
    torch.testing.assert_close(torch.stack([*sizes[:3]]), expected)


def test_chains_after_burn_in_are_exact() -> None:
    target = Gaussian()
    sampler = MALASampler(300, adaptation=DualAveraging(burn_in=100, target_accept=0.57))
    state, _ = sampler.run(target, target.draw(20_000, 1), generator=generator_for(2))
    assert target.p_value(state) > LEVEL


@pytest.mark.parametrize(
    "arguments", [{"burn_in": 0}, {"target_accept": 1.0}, {"gamma": torch.nan}, {"decay": 0.5}]
)
def test_bad_adaptation_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="DualAveraging needs"):
        DualAveraging(**arguments)  # type: ignore[arg-type]
