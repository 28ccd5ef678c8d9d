"""Langevin dynamics at a temperature: an example of a sampler in a package of its own."""

from math import sqrt

from torch import Generator

from vaebm.errors import UsageError
from vaebm.noise import standard_normal
from vaebm.samplers import Chain, Potential, Sampler, StepInfo, value_and_grad


class TemperedLangevinSampler(Sampler):
    """Langevin dynamics at temperature T: x ← x − (η/2) ∂U/∂x + √(η T) · ω, ω ~ N(0, I).

    For small η the chains settle on a density ∝ exp(−U/T): T < 1 prefers likely states, T > 1
    crosses barriers more easily.

    Args:
        num_steps: Steps of a chain.
        step_size: η > 0.
        temperature: T ≥ 0; 0 is gradient descent.
    """

    def __init__(
        self, num_steps: int = 10, step_size: float = 1e-2, temperature: float = 0.5
    ) -> None:
        super().__init__(num_steps)
        if step_size <= 0 or temperature < 0:
            raise UsageError("TemperedLangevinSampler needs step_size > 0 and temperature ≥ 0")
        self.step_size = step_size
        self.temperature = temperature

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """One move along the gradient where the chain stands, plus noise."""
        value, grad = value_and_grad(potential, chain.state)
        # It gives each chain a stream of its own, so that samples do not depend on the batch size.
        noise = standard_normal(*grad.shape, generator=generator, device=grad.device)
        scale = sqrt(self.step_size * self.temperature)
        state = chain.state - 0.5 * self.step_size * grad + scale * noise
        return Chain(state), StepInfo(value, grad.norm(dim=1))
