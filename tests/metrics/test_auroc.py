"""The area under the ROC curve against all pairs, other libraries, and its spread."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from vaebm.errors import DataError
from vaebm.metrics.auroc import auroc
from vaebm.noise import generator_for


def scores(count: int, seed: int, shift: float = 0.0, digits: int = 6) -> Tensor:
    draws = torch.randn(count, generator=generator_for(seed), dtype=torch.float64)
    return (draws + shift).round(decimals=digits)


@pytest.mark.parametrize("digits", [6, 0])
def test_area_is_the_share_of_pairs_in_order(digits: int) -> None:
    inside, outside = scores(50, 1, 0.7, digits), scores(70, 2, digits=digits)
    pairs = inside[:, None] - outside
    expected = (pairs > 0).double().mean() + 0.5 * (pairs == 0).double().mean()
    assert float(auroc(inside, outside)[0]) == pytest.approx(float(expected), rel=1e-12)


def test_area_is_that_of_torchmetrics() -> None:
    inside, outside = scores(50, 1, 0.7, 1), scores(70, 2, digits=1)
    target = torch.cat([torch.ones(50), torch.zeros(70)]).long()
    expected = BinaryAUROC()(torch.cat([inside, outside]).sigmoid(), target)
    assert float(auroc(inside, outside)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_error_is_the_spread_of_repeated_draws() -> None:
    found = [auroc(scores(60, 2 * k, 0.7), scores(90, 2 * k + 1)) for k in range(800)]
    areas, errors = (torch.stack(values) for values in zip(*found, strict=True))
    # The standard deviation of 800 areas is known to 1 / √1600.
    assert float(errors.mean() / areas.std()) == pytest.approx(1, abs=0.1)


def test_error_is_the_formula_by_pairs() -> None:
    inside, outside = scores(30, 1, 0.7, 1), scores(20, 2, digits=1)
    psi = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside).double()
    expected = psi.mean(1).var() / 30 + psi.mean(0).var() / 20
    assert float(auroc(inside, outside)[1] ** 2) == pytest.approx(float(expected), rel=1e-12)


def test_separated_scores_have_area_one_and_swapped_ones_zero() -> None:
    low, high = torch.arange(5.0), torch.arange(10.0, 15.0)
    assert [float(v) for v in auroc(high, low)] == [1, 0]
    assert [float(v) for v in auroc(low, high)] == [0, 0]
    assert float(auroc(torch.ones(5), torch.ones(4))[0]) == 0.5


def test_infinite_scores_count() -> None:
    assert float(auroc(torch.tensor([0.0, 1]), torch.tensor([-torch.inf, torch.inf]))[0]) == 0.5


def test_too_few_scores_and_nan_are_refused() -> None:
    with pytest.raises(DataError, match="two scores or more on each side"):
        auroc(scores(5, 1), scores(1, 2))
    with pytest.raises(DataError, match="scores that are NaN"):
        auroc(scores(5, 1), torch.tensor([0.0, torch.nan], dtype=torch.float64))
