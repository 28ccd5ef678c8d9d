"""log Z from the weights of annealed chains, with its uncertainty."""

from math import log
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vaebm.errors import DataError


def log_mean_weight(log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log of mean w, its standard error and the effective number of weights.

    The error is that of the first order, √(1/ESS − 1/N) with ESS = (Σ w)² / Σ w². It is too small
    where few chains carry all the weight; an ESS of less than about ten says so.

    Args:
        log_weight: Log weights of independent chains, ``(N,)``.

    Returns:
        Three scalars, float64.
    """
    log_weight = log_weight.double()
    total = log_weight.logsumexp(0)
    effective = (2 * total - (2 * log_weight).logsumexp(0)).exp()
    error = (1 / effective - 1 / len(log_weight)).clamp(min=0).sqrt()
    return total - log(len(log_weight)), error, effective


class AnnealedPartition(Metric):
    """log Z of a VAEBM between a lower and an upper bound, by annealed importance sampling.

    Chains that go up, from the VAE's prior to the model, give weights with E[w] = Z, so that log
    mean w is below log Z on average. Chains that go down, from samples of the model, give
    E[w] = 1/Z and a bound above. The two meet where the chains are good; the upper one holds only
    if the samples are. Those of the model are usually the ends of the chains that went up,
    resampled by their weights, and no more independent than these: the error of the upper bound is
    that of both sides together, √(up² + down²), and its effective number the smaller of the two.
    All weights of all processes are kept.

    Args:
        **kwargs: Options of torchmetrics' Metric.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani,
        Adams, 2015).
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    up: list[Tensor]
    down: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("up", [], dist_reduce_fx="cat")
        self.add_state("down", [], dist_reduce_fx="cat")

    def update(self, log_weight: Tensor, *, down: bool = False) -> None:
        """Add weights.

        Args:
            log_weight: Log weights of annealed chains, ``(N,)``.
            down: Whether the chains went from the model to the prior.
        """
        (self.down if down else self.up).append(log_weight.detach().double())

    def compute(self) -> dict[str, Tensor]:
        """The bounds and how far to trust them.

        Returns:
            ``log_z``, the lower bound, in nats, ``log_z_error``, its standard error, ``log_z_ess``,
            how many chains count; and, with chains that went down, ``log_z_upper`` and
            ``log_z_upper_error``, ``log_z_upper_ess``. Scalars.

        Raises:
            DataError: If there was no chain that went up.
        """
        if not len(self.up):
            raise DataError("no annealed chains, so no log Z")
        value, error, effective = log_mean_weight(dim_zero_cat(self.up))
        figures = {"log_z": value, "log_z_error": error, "log_z_ess": effective}
        if len(self.down):
            upper, down_error, down_effective = log_mean_weight(dim_zero_cat(self.down))
            figures |= {"log_z_upper": -upper, "log_z_upper_error": error.hypot(down_error)}
            figures["log_z_upper_ess"] = effective.minimum(down_effective)
        return figures
