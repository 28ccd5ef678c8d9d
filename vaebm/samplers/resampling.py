"""Self-normalised importance resampling of fresh prior draws."""

import torch
from torch import Generator, Tensor

from vaebm.errors import DataError, UsageError
from vaebm.noise import RowGenerators, standard_normal, uniform
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers


def log_weights(value: Tensor, eps: Tensor) -> Tensor:
    """Log importance weights −(U − ½‖ε‖²) of prior draws, up to a constant.

    Args:
        value: U(ε), ``(N,)``.
        eps: Draws from N(0, I), ``(N, D)``.
    """
    return 0.5 * eps.square().sum(1) - value


def normalised(log_weight: Tensor) -> Tensor:
    """Weights that sum to 1, float64, ``(N,)``; NaN counts as weight 0.

    Raises:
        DataError: If no weight is left, or one is infinite.
    """
    log_weight = log_weight.double()
    log_weight = torch.where(log_weight.isnan(), -torch.inf, log_weight)
    if not log_weight.max().isfinite():
        raise DataError("the candidates' energies are NaN or infinite: training diverged")
    return log_weight.softmax(0)


def systematic_choice(weights: Tensor, count: int, offset: Tensor) -> Tensor:
    """Systematic resampling: `count` indices, index i about count · weights[i] times.

    Each index is chosen count · wᵢ times in expectation and never more than one off that, so the
    choice itself adds less noise than independent draws.

    Args:
        weights: Normalised weights, ``(N,)``.
        count: Number of indices.
        offset: One uniform number in [0, 1), a scalar.

    Returns:
        Indices in increasing order, ``(count,)``.

    References:
        On sequential Monte Carlo sampling methods for Bayesian filtering (Carpenter et al., 1999).
    """
    # In float32 the last tick can round to 1, which is beyond every index of positive weight.
    ticks = (torch.arange(count, device=weights.device).double() + offset) / count
    chosen = torch.searchsorted(weights.double().cumsum(0), ticks, right=True)
    return chosen.clamp(max=len(weights) - 1)


@samplers.register
class ResamplingSampler(Sampler):
    """Importance resampling of prior draws: ε_i ~ N(0, I), chosen with w_i ∝ exp(−(U − ½‖ε‖²)).

    In noise space the target is N(ε; 0, I) exp(−E(T(ε))), so the weights are exp(−E). No gradient
    is needed and every mode of the VAE is reached at once, which is what 2-D toys need; but the
    share of draws that count falls with the dimension, so images need Langevin dynamics.

    Chains that share a generator share one pool of draws, and where every chain has a stream of
    its own (as in `vaebm sample`) each has its own pool of the same size: averaged over the chains,
    the law is the same, but those of one pool can coincide. The start is not used, and a second
    step replaces the first one's result.

    Args:
        num_candidates: Draws in a pool.
        chunk_size: Draws that are evaluated at once; bounds the memory.
    """

    uses_start = False
    needs_gradient = False

    def __init__(self, num_candidates: int = 2048, chunk_size: int = 16384) -> None:
        super().__init__(num_steps=1)
        if num_candidates < 1 or chunk_size < 1:
            raise UsageError("ResamplingSampler needs num_candidates ≥ 1 and chunk_size ≥ 1")
        self.num_candidates = num_candidates
        self.chunk_size = chunk_size

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Replace every chain by a resampled prior draw."""
        batch_size = len(chain.state)
        if isinstance(generator, RowGenerators):
            rows = [self._resample(potential, chain.state[:1], g) for g in generator.rows]
            state, value = (torch.cat(parts) for parts in zip(*rows, strict=True))
        else:
            state, value = self._resample(potential, chain.state, generator)
        no_grad_norm = torch.zeros(batch_size, device=state.device)
        return Chain(state, value), StepInfo(value, no_grad_norm)

    @torch.no_grad()
    def _resample(
        self, potential: Potential, like: Tensor, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """As many resampled draws as `like` has rows, with their potentials."""
        dim, device = like.shape[1], like.device
        eps = standard_normal(self.num_candidates, dim, generator=generator, device=device).to(like)
        value = torch.cat([potential(part) for part in eps.split(self.chunk_size)])
        weights = normalised(log_weights(value, eps))
        offset = uniform(1, generator=generator, device=device)[0]
        chosen = systematic_choice(weights, len(like), offset)
        return eps[chosen], value[chosen]
