"""The terms of stage 2's loss."""

import pytest
import torch

from tests.toys import QuadraticEnergy
from tests.training import ebm_stage
from vaebm.contrast import gap_loss, magnitude, squared_offset, squared_slope
from vaebm.errors import UsageError


def slope(gap: float, scale: float | None) -> float:
    """Derivative of the loss with respect to the gap."""
    value = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(gap_loss(value, scale), value)
    return float(grad)


@pytest.mark.parametrize("gap", [-30.0, 0.0, 7.0])
def test_paper_loss_is_the_gap(gap: float) -> None:
    assert float(gap_loss(torch.tensor(gap), None)) == gap
    assert slope(gap, None) == 1


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_gradient_is_the_papers_where_the_gap_is_zero(scale: float) -> None:
    assert slope(0.0, scale) == pytest.approx(1.0)


@pytest.mark.parametrize("gap", [-50.0, -10.0, 3.0, 80.0])
def test_gradient_fades_with_twice_the_logistic_function(gap: float) -> None:
    expected = 2 / (1 + torch.tensor(-gap / 10, dtype=torch.float64).exp())
    assert slope(gap, 10.0) == pytest.approx(float(expected), rel=1e-9)


def test_loss_of_an_enormous_gap_is_finite() -> None:
    assert gap_loss(torch.tensor([-1e30, 1e30]), 10.0).isfinite().all()


def test_magnitude_is_the_sum_of_both_mean_squares() -> None:
    assert float(magnitude(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]))) == 5.0 + 2.0


def test_offset_is_the_square_of_the_common_mean() -> None:
    assert float(squared_offset(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 6.0]))) == 3.5**2


def test_offset_ignores_the_gap() -> None:
    data, model = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert squared_offset(data - 5, model + 5) == squared_offset(data, model)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="gap_scale"):
        ebm_stage(gap_scale=scale)


def test_squared_slope_of_a_quadratic_is_known() -> None:
    energy, x = QuadraticEnergy(0.7, 0.2), torch.randn(6, 3, requires_grad=True)
    slope = squared_slope(energy(x), x)
    squares = (x - 0.2).square().sum(1).mean().detach()
    torch.testing.assert_close(slope, 0.7**2 * squares)
    (grad,) = torch.autograd.grad(slope, energy.curvature)
    torch.testing.assert_close(grad, 2 * 0.7 * squares)


def test_squared_slope_of_images_sums_over_colours_and_pixels() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert float(squared_slope(2 * x.sum((1, 2, 3)), x)) == 4 * 3 * 4 * 4
