"""Whether chains are right: traces, effective sample size, split R-hat, autocorrelation, cost."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from torch import Generator, Tensor

from vaebm.errors import DataError, UsageError
from vaebm.samplers.base import Chain, Potential, Sampler

Observable = Callable[[Chain], Tensor]
"""What is followed of a chain: a number for each, ``(B,)``."""


class Counted:
    """A potential that counts how often it is asked.

    Args:
        potential: U.

    Attributes:
        gradients: States at which U and its gradient were evaluated.
        values: States at which U alone was.
    """

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self.gradients = 0
        self.values = 0

    def __call__(self, state: Tensor) -> Tensor:
        """U of states ``(B, D)``."""
        if state.requires_grad:
            self.gradients += len(state)
        else:
            self.values += len(state)
        return self._potential(state)


class Trace(NamedTuple):
    """What was seen of a batch of chains.

    Attributes:
        values: Each observable at every step, ``(K, B)``.
        accept_prob: Acceptance of every step, ``(K, B)``; None for kernels without.
        state: Where the chains ended, ``(B, D)``.
        gradients: Gradient evaluations of a chain.
        evaluations: Evaluations without gradient of a chain.
        seconds: Time that the steps took.
    """

    values: dict[str, Tensor]
    accept_prob: Tensor | None
    state: Tensor
    gradients: float
    evaluations: float
    seconds: float


class Summary(NamedTuple):
    """Figures of one observable over chains that should have one law.

    Attributes:
        mean: Its mean.
        error: Monte Carlo standard error of the mean.
        ess: Effective sample size: as many independent draws have the same error of the mean.
        rhat: Split R-hat of the ranks; above 1.01 the chains do not agree yet.
        autocorrelation: Integrated autocorrelation time τ = draws / ESS, in steps.
    """

    mean: float
    error: float
    ess: float
    rhat: float
    autocorrelation: float


def record(
    sampler: Sampler,
    potential: Potential,
    start: Tensor,
    observables: Mapping[str, Observable],
    *,
    num_steps: int | None = None,
    generator: Generator | None = None,
) -> Trace:
    """Run chains and keep what the observables tell at every step, but not the states.

    Args:
        sampler: A kernel.
        potential: U of the target.
        start: First states, ``(B, D)``.
        observables: What to follow, by name.
        num_steps: Steps K; the sampler's own number if None.
        generator: Source of all randomness.
    """
    counted = Counted(potential)
    values: dict[str, list[Tensor]] = {name: [] for name in observables}
    accepted, seconds, chain = [], 0.0, Chain(start)
    steps = sampler.iterate(counted, start, num_steps=num_steps, generator=generator)
    before = clock(start)
    for chain, info in steps:
        seconds += clock(start) - before  # of the step alone, not of looking at it
        with torch.no_grad():
            for name, observe in observables.items():
                values[name].append(observe(chain))
        if info.accept_prob is not None:
            accepted.append(info.accept_prob)
        before = clock(start)
    return Trace(
        {name: torch.stack(series) for name, series in values.items()},
        torch.stack(accepted) if accepted else None,
        chain.state.detach(),
        counted.gradients / len(start),
        counted.values / len(start),
        seconds,
    )


def clock(state: Tensor) -> float:
    """Seconds, once the device of a tensor has done all it was asked to do."""
    if state.is_cuda:
        torch.cuda.synchronize(state.device)
    return time.perf_counter()


def summary(values: Tensor) -> Summary:
    """Judge one observable of several chains.

    Args:
        values: The observable after burn-in, ``(K, B)`` with K ≥ 4 steps of B ≥ 2 chains.

    Raises:
        UsageError: If there are too few steps or chains to judge.
        DataError: If a value is NaN or infinite.

    References:
        Rank-normalization, folding, and localization: an improved R-hat for assessing convergence
        of MCMC (Vehtari, Gelman, Simpson, Carpenter, Bürkner, 2021).
    """
    if values.shape[0] < 4 or values.shape[1] < 2:
        raise UsageError(
            f"{values.shape[0]} steps of {values.shape[1]} chains cannot be judged: at least 4 "
            "steps of 2 chains are due"
        )
    if not values.isfinite().all():
        raise DataError("a chain's observable is NaN or infinite: the chains left")
    draws = draws_of(values)
    if np.ptp(draws) == 0:  # a constant has no autocorrelation
        return Summary(float(draws[0, 0]), 0.0, float(draws.size), 1.0, 1.0)
    axes = {"chain_axis": 0, "draw_axis": 1}
    ess = float(array_stats.ess(draws, method="mean", **axes))
    rhat = float(array_stats.rhat(draws, **axes))
    error = float(draws.std(ddof=1)) / ess**0.5
    return Summary(float(draws.mean()), error, ess, rhat, draws.size / ess)


def autocorrelation(values: Tensor) -> NDArray[np.float64]:
    """Autocorrelation at the lags 0 to K − 1, averaged over the chains that moved at all.

    Args:
        values: An observable after burn-in, ``(K, B)``.
    """
    draws = draws_of(values)
    moving = draws[np.ptp(draws, axis=1) > 0]
    if not len(moving):
        return np.ones(draws.shape[1])
    curve: NDArray[np.float64] = array_stats.autocorr(moving, axis=1).mean(0)
    return curve


def draws_of(values: Tensor) -> NDArray[np.float64]:
    """Values ``(K, B)`` as chains of draws, ``(B, K)``."""
    draws: NDArray[np.float64] = values.double().T.cpu().numpy()
    return draws
