"""How a step size or a noise changes from the first step of a chain to its last."""

from math import cos, inf, pi
from typing import Literal

from vaebm.configurable import Configurable
from vaebm.errors import UsageError


class Schedule(Configurable):
    """A factor that goes from 1 at a chain's first step to `final` at its last.

    With t in [0, 1] the share of the chain that is done: ``geometric`` is final^t, ``linear`` is
    1 + (final − 1) t, ``cosine`` is final + (1 − final) (1 + cos πt) / 2.

    Args:
        final: Factor at the last step, ≥ 0; ``geometric`` needs > 0.
        shape: How it gets there.
    """

    def __init__(
        self, final: float = 0.1, shape: Literal["geometric", "linear", "cosine"] = "geometric"
    ) -> None:
        if shape not in ("geometric", "linear", "cosine"):
            raise UsageError(f"shape is {shape!r}, but geometric, linear or cosine is due")
        if not 0 <= final < inf or (final == 0 and shape == "geometric"):
            raise UsageError(f"final is {final}, but a factor ≥ 0 (geometric: > 0) is due")
        self.final = final
        self.shape = shape

    def factor(self, progress: float) -> float:
        """The factor where the share `progress` of the chain is done."""
        if self.shape == "geometric":
            return float(self.final**progress)
        if self.shape == "linear":
            return 1 + (self.final - 1) * progress
        return self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2


def factor(schedule: Schedule | None, progress: float) -> float:
    """The factor of a schedule, 1 without one."""
    return 1.0 if schedule is None else schedule.factor(progress)
