"""Annealed importance sampling between the VAE's noise and the VAEBM."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from vaebm.errors import DataError, UsageError
from vaebm.samplers.base import Chain, Potential, Sampler


class Annealed(NamedTuple):
    """What annealed chains give.

    Attributes:
        log_weight: Log importance weights, ``(N,)``, float64.
        state: Where the chains end, ``(N, D)``.
        accept_prob: Mean acceptance of every chain, ``(N,)``; NaN for kernels without a test.
    """

    log_weight: Tensor
    state: Tensor
    accept_prob: Tensor


def sigmoid_betas(num_steps: int, slope: float = 4.0) -> Tensor:
    """Inverse temperatures β₀ = 0 < … < β_K = 1 that are closest at both ends, ``(K + 1,)``.

    β_k = (s(δ (2k/K − 1)) − s(−δ)) / (s(δ) − s(−δ)) with the logistic function s.

    Args:
        num_steps: K ≥ 1.
        slope: δ > 0; nearly equal distances for a small one.

    References:
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov,
        Grosse, 2017), section 4.
    """
    if num_steps < 1 or slope <= 0:
        raise UsageError("annealing needs at least one step and a slope above 0")
    curve = torch.sigmoid(slope * torch.linspace(-1, 1, num_steps + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


class AnnealedPath:
    """The densities π_β(ε) ∝ exp(−β Φ(ε)) N(ε; 0, I), from the prior at β = 0 to the model at 1.

    In noise space Φ(ε) = E(T(ε)), and their constants are Z_β = E_{N(0, I)} exp(−β Φ): Z₁ is the
    model's Z (Eq. 5), Z₀ = 1.

    Chains are float64, while Φ is evaluated in `dtype`: then U_β of one β follows from that of
    another without evaluating Φ again, however small β is.

    Args:
        potential: U = Φ + ½‖ε‖² of the model in noise space.
        dtype: Type of the states that `potential` takes.
    """

    def __init__(self, potential: Potential, dtype: torch.dtype = torch.float32) -> None:
        self._potential = potential
        self._dtype = dtype

    def change(self, state: Tensor) -> Tensor:
        """Φ of states ``(B, D)``, float64, ``(B,)``."""
        state = state.to(self._dtype)
        return (self._potential(state) - 0.5 * state.square().sum(1)).double()

    def at(self, beta: float) -> Potential:
        """U_β(ε) = β Φ(ε) + ½‖ε‖²."""
        return lambda state: beta * self.change(state) + 0.5 * state.square().sum(1)

    def change_of(self, chain: Chain, beta: float) -> Tensor:
        """Φ where a chain stands, from its U_β if that is known."""
        if beta == 0 or chain.potential is None:
            with torch.no_grad():
                return self.change(chain.state)
        return (chain.potential - 0.5 * chain.state.square().sum(1)) / beta

    def moved(self, chain: Chain, phi: Tensor, before: float, after: float) -> Chain:
        """The chain with U and gradient of another β."""
        grad = None
        if chain.grad is not None and before > 0:
            grad = chain.state + after / before * (chain.grad - chain.state)
        value = after * phi + 0.5 * chain.state.square().sum(1)
        return chain._replace(potential=value, grad=grad, before=None)


def annealed_weights(
    path: AnnealedPath,
    start: Tensor,
    betas: Tensor,
    sampler: Sampler,
    *,
    generator: Generator | None,
) -> Annealed:
    """Move chains along a path, one step of `sampler` at each β, and weigh them.

    Up, from draws of N(0, I): log w = −Σ_k (β_k − β_{k−1}) Φ(ε_{k−1}), and E[w] = Z. Down, with
    `betas` falling from 1 to 0 and draws of the model: the same sum, and E[w] = 1/Z. Since log is
    concave, log mean w is on average below log Z going up, and −log mean w above it going down.
    It holds for kernels that leave their target as it is (`Sampler.leaves_target`); with other
    ones there is a bias that no number of chains removes.

    Args:
        path: The densities.
        start: Draws from the path's density at the first β, ``(N, D)``.
        betas: Inverse temperatures, ``(K + 1,)``, from 0 to 1 or from 1 to 0.
        sampler: Any kernel; its own number of steps is not used.
        generator: Source of all randomness.

    Raises:
        DataError: If Φ is NaN somewhere.

    References:
        Annealed Importance Sampling (Neal, 2001); Sandwiching the marginal likelihood using
        bidirectional Monte Carlo (Grosse, Ghahramani, Adams, 2015).
    """
    levels = betas.tolist()
    rising, last = levels[0] < levels[-1], max(len(levels) - 2, 1)
    with torch.inference_mode(False), torch.enable_grad():
        chain = sampler.first(start.detach().double().clone())
        log_weight, accepted = torch.zeros_like(chain.state[:, 0]), []
        for index, (before, after) in enumerate(pairwise(levels)):
            # Going down is the reverse of going up: move at the colder β, then weigh; and a
            # schedule of the kernel belongs to β, not to the order in which it is met.
            if not rising:
                chain = chain._replace(progress=1 - index / last)
                chain, accept = _step(path, chain, before, sampler, generator)
                accepted.append(accept)
            phi = path.change_of(chain, before)
            log_weight -= (after - before) * phi
            chain = path.moved(chain, phi, before, after)
            if rising:
                chain = chain._replace(progress=index / last)
                chain, accept = _step(path, chain, after, sampler, generator)
                accepted.append(accept)
    if not log_weight.isfinite().all():
        raise DataError("the energy is NaN or infinite on annealed chains: training diverged")
    return Annealed(log_weight, chain.state.detach().to(start), torch.stack(accepted).mean(0))


def _step(
    path: AnnealedPath,
    chain: Chain,
    beta: float,
    sampler: Sampler,
    generator: Generator | None,
) -> tuple[Chain, Tensor]:
    """One step of the kernel at β, and the acceptance."""
    chain, info = sampler.step(path.at(beta), chain, generator=generator)
    nothing = torch.full_like(info.potential, torch.nan)
    return chain, nothing if info.accept_prob is None else info.accept_prob
