"""Langevin and Hamiltonian chains have the law of an independent library's, torchebm."""

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from torchebm.core import GaussianModel
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

from tests.samplers.targets import LEVEL, Gaussian
from vaebm.noise import generator_for
from vaebm.samplers import HMCSampler, LangevinSampler

CHAINS = 50_000
TARGET = Gaussian(condition=10.0)
LENGTH = 0.25  # of a step; the narrow axis has a scale of 0.32, so that bias and rejections show


def start(seed: int) -> Tensor:
    """First states away from the target, other ones for either library."""
    return TARGET.draw(CHAINS, seed) + TARGET.scale


def two_sample_p_value(first: Tensor, second: Tensor) -> float:
    """χ² test that as many of two samples of one size fall into each of 400 cells."""
    cells = [TARGET.cells(states)[0] for states in (first, second)]
    one, other = (torch.bincount(cell, minlength=400).double() for cell in cells)
    seen = one + other >= 10
    statistic = ((one - other)[seen].square() / (one + other)[seen]).sum()
    return float(chi2.sf(statistic, int(seen.sum())))


def theirs(kind: str, length: float, steps: int) -> Tensor:
    """States of torchebm after a number of steps, whose Langevin step size is half of ours."""
    model = GaussianModel(torch.zeros(2), torch.diag(TARGET.scale**2))
    sampler = (
        LangevinDynamics(model, step_size=length**2 / 2)
        if kind == "Langevin"
        else HamiltonianMonteCarlo(model, step_size=length, n_leapfrog_steps=3)
    )
    state: Tensor = sampler.sample(start(3), n_steps=steps, generator=generator_for(4))
    return state


def ours(kind: str, length: float, steps: int) -> Tensor:
    """Our states."""
    sampler = (
        LangevinSampler(step_size=length**2)
        if kind == "Langevin"
        else HMCSampler(step_size=length, num_leapfrog=3, jitter=0.0)
    )
    return sampler.run(TARGET, start(1), num_steps=steps, generator=generator_for(2))[0]


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("kind", ["Langevin", "HMC"])
def test_chains_have_the_law_of_torchebm_on_a_gaussian(kind: str, steps: int) -> None:
    assert two_sample_p_value(ours(kind, LENGTH, steps), theirs(kind, LENGTH, steps)) > LEVEL


@pytest.mark.parametrize("kind", ["Langevin", "HMC"])
def test_a_step_longer_by_a_fifth_would_be_seen(kind: str) -> None:
    longer = theirs(kind, 1.2 * LENGTH, 5)
    assert two_sample_p_value(ours(kind, LENGTH, 5), longer) < LEVEL
