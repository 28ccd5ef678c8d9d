"""Area under the ROC curve with its standard error."""

import torch
from torch import Tensor

from vaebm.errors import DataError


def auroc(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """P(score inside > score outside) + ½ P(equal), and its standard error by DeLong.

    error² = Var_i[V_i] / m + Var_j[W_j] / n, where V_i is the share of outside scores below the
    inside score i, and W_j the share of inside scores above the outside score j. It is 0 where the
    two are separated completely.

    Args:
        inside: Scores that should be high, ``(m,)``, m ≥ 2.
        outside: Scores that should be low, ``(n,)``, n ≥ 2.

    Returns:
        Two scalars, float64.

    Raises:
        DataError: If either side has fewer than two scores, or one that is NaN.

    References:
        Comparing the Areas Under Two or More Correlated Receiver Operating Characteristic Curves
        (DeLong, DeLong, Clarke-Pearson, 1988).
    """
    if min(len(inside), len(outside)) < 2:
        raise DataError("an AUROC needs two scores or more on each side")
    if inside.isnan().any() or outside.isnan().any():
        raise DataError("an AUROC of scores that are NaN says nothing")
    below = _share_below(inside, outside)
    above = 1 - _share_below(outside, inside)
    error = (below.var() / len(below) + above.var() / len(above)).sqrt()
    return below.mean(), error


def _share_below(scores: Tensor, others: Tensor) -> Tensor:
    """Of each score the share of other scores below it, equal ones by half, ``(N,)``."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, scores)
    not_above = torch.searchsorted(ordered, scores, right=True)
    return (below + not_above).double() / (2 * len(others))
