"""Residual cells of NVAE."""

import pytest
import torch
from torch import nn

from vaebm.errors import UsageError
from vaebm.models.cells import ARCHITECTURES, OPERATORS, UP, Cell, operators_of


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("stride", "width", "side"), [(1, 16, 8), (2, 32, 4), (UP, 8, 16)])
def test_cell_changes_width_and_resolution(name: str, stride: int, width: int, side: int) -> None:
    cell = Cell([name, name], 16, width, stride, squeeze_excitation=True)
    assert cell(torch.randn(2, 16, 8, 8)).shape == (2, width, side, side)


def test_cell_adds_a_tenth_of_its_branch() -> None:
    cell = Cell(["res_bnswish"], 8, 8, squeeze_excitation=True).eval()
    features = torch.randn(2, 8, 4, 4)
    expected = features + 0.1 * cell.se(cell.ops(features))
    torch.testing.assert_close(cell(features), expected)


def test_down_skip_reads_every_pixel() -> None:
    cell = Cell(["res_bnswish"], 4, 8, 2, squeeze_excitation=False)
    features = torch.randn(1, 4, 6, 6, requires_grad=True)
    cell.skip(features).sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).all()


def test_dilated_operator_reaches_two_pixels() -> None:
    operator = OPERATORS["res_bnswish5"](2, 2, 1).eval()
    features = torch.randn(1, 2, 9, 9, requires_grad=True)
    operator(features)[0, :, 4, 4].sum().backward()
    seen = features.grad.abs().sum((0, 1)).nonzero()  # type: ignore[union-attr]
    assert seen.unique().tolist() == [2, 4, 6]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_names_known_operators(name: str) -> None:
    assert {op for kind in operators_of(name) for op in kind} <= set(OPERATORS)


def test_unknown_architecture_is_refused_with_the_closest_one() -> None:
    with pytest.raises(UsageError, match="did you mean res_mbconv"):
        operators_of("res_mbcon")


def test_batch_norms_have_the_published_momentum() -> None:
    cell = Cell(["mconv_e6k5g0"], 4, 4, squeeze_excitation=False)
    norms = [m for m in cell.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.05, 1e-5)}
