"""log Z from weights: bounds on both sides, over all updates."""

import pytest
import torch

from vaebm.errors import DataError
from vaebm.metrics import AnnealedPartition


def test_bounds_use_the_weights_of_all_updates() -> None:
    metric = AnnealedPartition()
    metric.update(torch.tensor([1.0, 2.0]).log())
    metric.update(torch.tensor([6.0]).log())
    metric.update(torch.tensor([0.25, 0.75]).log(), down=True)
    figures = metric.compute()
    assert figures["log_z"].exp() == pytest.approx(3.0)
    assert figures["log_z_upper"].exp() == pytest.approx(2.0)
    assert figures["log_z_ess"] == pytest.approx(81 / 41)
    up, down = 41 / 81 - 1 / 3, 0.625 - 1 / 2
    assert figures["log_z_error"] == pytest.approx(up**0.5)
    assert figures["log_z_upper_error"] == pytest.approx((up + down) ** 0.5)
    assert figures["log_z_upper_ess"] == pytest.approx(1.6)


def test_upper_bound_is_left_out_without_chains_that_went_down() -> None:
    metric = AnnealedPartition()
    metric.update(torch.zeros(3))
    assert set(metric.compute()) == {"log_z", "log_z_error", "log_z_ess"}


def test_equal_weights_are_certain() -> None:
    metric = AnnealedPartition()
    metric.update(torch.full((8,), -700.0))  # exp would underflow in float32
    figures = metric.compute()
    assert figures["log_z"] == pytest.approx(-700)
    assert figures["log_z_error"] == pytest.approx(0, abs=1e-6)
    assert figures["log_z_ess"] == pytest.approx(8)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_chain_is_an_error() -> None:
    with pytest.raises(DataError, match="no annealed chains"):
        AnnealedPartition().compute()
