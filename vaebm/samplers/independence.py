"""Jumps: proposals from the VAE's prior, with a Metropolis test."""

from torch import Generator, Tensor

from vaebm.noise import standard_normal
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, samplers
from vaebm.samplers.metropolis import accept_probability, grad_norm, known, move_or_stay


def independence_log_ratio(chain: Chain, proposal: Chain) -> Tensor:
    """Φ(x) − Φ(y) with Φ(x) = U(x) − ½‖x‖², the ratio of importance weights, ``(B,)``.

    Args:
        chain: x and U there.
        proposal: y ~ N(0, I) and U there.
    """
    assert chain.potential is not None
    assert proposal.potential is not None
    squares = chain.state.square().sum(1) - proposal.state.square().sum(1)
    return chain.potential - proposal.potential - 0.5 * squares


@samplers.register
class IndependenceSampler(Sampler):
    """Independent proposals ε' ~ N(0, I), accepted with probability min(1, exp(E(x) − E(x'))).

    In noise space a proposal is a sample x' = T(ε') of the VAE, so that chains jump between its
    modes, which no local move does. The target is left as it is, and no gradient is needed; but the
    share of jumps that are accepted falls fast as E grows, so mix it with local moves
    (`MixtureSampler`). On chains outside the VAE's noise it is right but useless.

    Args:
        num_steps: Proposals of a chain.

    References:
        Markov Chains for Exploring Posterior Distributions (Tierney, 1994), section 2.3.3.
    """

    needs_gradient = False

    def __init__(self, num_steps: int = 50) -> None:
        super().__init__(num_steps)

    @property
    def leaves_target(self) -> bool:
        """True."""
        return True

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Propose a jump of every chain, and make it or stay."""
        chain = known(chain, potential, grad=False)
        state = standard_normal(*chain.state.shape, generator=generator, device=chain.state.device)
        proposal = known(Chain(state.to(chain.state)), potential, grad=False)
        accept_prob = accept_probability(independence_log_ratio(chain, proposal))
        chain = move_or_stay(chain, proposal, accept_prob, generator=generator)
        assert chain.potential is not None
        return chain, StepInfo(chain.potential, grad_norm(chain), accept_prob)
