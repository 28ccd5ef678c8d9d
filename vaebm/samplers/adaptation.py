"""Step sizes that find themselves: dual averaging towards an acceptance rate."""

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from vaebm.configurable import Configurable
from vaebm.errors import UsageError


class StepSizes(NamedTuple):
    """The step sizes of a batch of chains while they adapt, each field ``(B,)``.

    Attributes:
        log_step: log η now.
        log_mean: Weighted mean of log η so far; what is used after burn-in.
        error: Running mean of target minus acceptance.
        updates: How many so far.
    """

    log_step: Tensor
    log_mean: Tensor
    error: Tensor
    updates: Tensor


class DualAveraging(Configurable):
    """Adapts each chain's step size η so that moves are accepted at a given rate.

    After update t: log η = μ − (√t / γ) · H, where H is the running mean of (target − acceptance)
    and μ = log(10 · first η); the mean of log η, weighted by t^(−κ), is what the chain keeps after
    `burn_in` steps. While η adapts the chain has no fixed target: use nothing of the burn-in.
    Chains adapt one by one, so that none depends on the others, and anew in every chain: this is
    for long ones.

    Args:
        burn_in: Steps with adaptation.
        target_accept: Acceptance rate to reach, in (0, 1); about 0.57 for MALA and 0.65 to 0.8 for
            Hamiltonian Monte Carlo.
        gamma: γ > 0, how strongly the step size follows the error; the larger, the less.
        offset: t₀ ≥ 0, damps the first updates.
        decay: κ in (0.5, 1].

    References:
        The No-U-Turn Sampler (Hoffman, Gelman, 2014), section 3.2.
    """

    def __init__(
        self,
        burn_in: int = 100,
        target_accept: float = 0.65,
        gamma: float = 0.05,
        offset: float = 10.0,
        decay: float = 0.75,
    ) -> None:
        if burn_in < 1 or not 0 < target_accept < 1:
            raise UsageError("DualAveraging needs burn_in ≥ 1 and target_accept in (0, 1)")
        if not 0 < gamma < inf or not 0 <= offset < inf or not 0.5 < decay <= 1:
            raise UsageError("DualAveraging needs gamma > 0, offset ≥ 0 and decay in (0.5, 1]")
        self.burn_in = burn_in
        self.target_accept = target_accept
        self.gamma = gamma
        self.offset = offset
        self.decay = decay

    def start(self, step_size: float, like: Tensor) -> StepSizes:
        """The state before the first step.

        Args:
            step_size: First η.
            like: A tensor of B rows, for device and type.
        """
        zero = torch.zeros(len(like), dtype=like.dtype, device=like.device)
        log_step = torch.log(zero + step_size)
        return StepSizes(log_step, log_step, zero, zero)

    def update(self, sizes: StepSizes, accept_prob: Tensor, first_step_size: float) -> StepSizes:
        """Learn from one step; after burn-in, nothing.

        Args:
            sizes: The state before.
            accept_prob: Acceptance probabilities of the step, ``(B,)``.
            first_step_size: η of the first step, around which μ is set.
        """
        count = sizes.updates + 1
        weight = 1 / (count + self.offset)
        error = (1 - weight) * sizes.error + weight * (self.target_accept - accept_prob)
        centre = torch.log(torch.full_like(error, 10 * first_step_size))
        log_step = centre - count.sqrt() / self.gamma * error
        forget = count**-self.decay
        log_mean = forget * log_step + (1 - forget) * sizes.log_mean
        last = count == self.burn_in
        new = StepSizes(torch.where(last, log_mean, log_step), log_mean, error, count)
        done = sizes.updates >= self.burn_in
        return StepSizes(
            *(torch.where(done, old, now) for old, now in zip(sizes, new, strict=True))
        )
