"""Kernels with a Metropolis test leave their target as it is: exact draws stay exact draws."""

from itertools import product

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from tests.samplers.targets import LEVEL, Banana, Gaussian, Gaussians25, Target
from vaebm.noise import generator_for
from vaebm.samplers import (
    HMCSampler,
    IndependenceSampler,
    LangevinSampler,
    MALASampler,
    MixtureSampler,
    PCNLangevinSampler,
    Sampler,
    Schedule,
)

CHAINS = 100_000
STEPS = 20
TARGETS = {"gaussian": Gaussian(), "banana": Banana(), "25 gaussians": Gaussians25()}
# Steps that a good part of the tests refuses, on the target's narrowest scale.
STEP_SIZES = {"gaussian": 0.02, "banana": 0.08, "25 gaussians": 0.3}


def kernels(step_size: float) -> dict[str, Sampler]:
    """Every corrected kernel, at steps of one length."""
    length = step_size**0.5
    hmc = HMCSampler(STEPS, length, num_leapfrog=3)
    jumps = IndependenceSampler(STEPS)
    return {
        "mala": MALASampler(STEPS, step_size),
        "hmc": hmc,
        "pcn": PCNLangevinSampler(STEPS, step_size),
        "independence": jumps,
        "mixture": MixtureSampler([jumps, hmc], [0.7, 0.3], STEPS),
        "schedule": MALASampler(STEPS, 2 * step_size, schedule=Schedule(0.1)),
    }


NAMES = list(kernels(1.0))


@pytest.mark.parametrize(("name", "kernel"), list(product(TARGETS, NAMES)))
def test_exact_draws_stay_exact(name: str, kernel: str) -> None:
    target = TARGETS[name]
    sampler = kernels(STEP_SIZES[name])[kernel]
    state, info = sampler.run(target, target.draw(CHAINS, 1), generator=generator_for(2))
    assert info.accept_prob is not None
    assert 0.05 < info.accept_prob.mean() < 0.95  # else nothing moves, or nothing is tested
    assert target.p_value(state) > LEVEL


@pytest.mark.parametrize("name", TARGETS)
def test_exact_draws_do_not_stay_exact_without_a_metropolis_test(name: str) -> None:
    target = TARGETS[name]
    sampler = LangevinSampler(STEPS, STEP_SIZES[name])
    state, _ = sampler.run(target, target.draw(CHAINS, 1), generator=generator_for(2))
    assert target.p_value(state) < LEVEL


@pytest.mark.parametrize("name", TARGETS)
def test_draws_of_the_tests_themselves_are_exact(name: str) -> None:
    assert TARGETS[name].p_value(TARGETS[name].draw(CHAINS, 3)) > LEVEL


@pytest.mark.parametrize("kernel", ["mala", "hmc", "pcn", "mixture"])
def test_moments_of_an_ill_conditioned_gaussian_are_reached_from_far(kernel: str) -> None:
    target = Gaussian()
    start = target.draw(CHAINS // 10, 1) + target.scale
    sampler = kernels(STEP_SIZES["gaussian"])[kernel]
    steps = 200 if kernel in ("hmc", "mixture") else 500
    state, _ = sampler.run(target, start, num_steps=steps, generator=generator_for(2))
    standard = target.normal(state)
    sigmas = 5
    assert (standard.mean(0).abs() < sigmas * len(state) ** -0.5).all()
    assert ((standard.var(0) - 1).abs() < sigmas * (2 / len(state)) ** 0.5).all()


def flow_p_value(sampler: Sampler, target: Target, start: Tensor) -> float:
    """χ² test that as many chains go from cell i to j as from j to i in one step."""
    state, _ = sampler.run(target, start, num_steps=1, generator=generator_for(2))
    (before, probability), (after, _) = target.cells(start), target.cells(state)
    size = len(probability)
    flow = torch.bincount(before * size + after, minlength=size**2).view(size, size).double()
    there, back = flow.triu(1), flow.tril(-1).T
    seen = there + back >= 10
    statistic = ((there - back)[seen].square() / (there + back)[seen]).sum()
    return float(chi2.sf(statistic, int(seen.sum())))


@pytest.mark.parametrize(("name", "kernel"), list(product(["gaussian", "banana"], NAMES)))
def test_one_step_is_in_detailed_balance(name: str, kernel: str) -> None:
    target = TARGETS[name]
    sampler = kernels(STEP_SIZES[name])[kernel]
    assert flow_p_value(sampler, target, target.draw(10 * CHAINS, 1)) > LEVEL


@pytest.mark.parametrize("name", ["gaussian", "banana"])
def test_a_step_without_metropolis_test_is_not_in_detailed_balance(name: str) -> None:
    target = TARGETS[name]
    sampler = LangevinSampler(1, STEP_SIZES[name])
    assert flow_p_value(sampler, target, target.draw(10 * CHAINS, 1)) < LEVEL


@pytest.mark.parametrize("step_size", [0.1, 1.0, 4.0])
def test_crank_nicolson_without_test_is_exact_on_the_reference_at_any_step(
    step_size: float,
) -> None:
    target = Gaussian(condition=1.0)
    sampler = PCNLangevinSampler(STEPS, step_size, corrected=False)
    state, _ = sampler.run(target, target.draw(CHAINS, 1), generator=generator_for(2))
    assert target.p_value(state) > LEVEL
