"""Autoregressive flows: their order, and that they keep volumes."""

import pytest
import torch
from torch import Tensor

from vaebm.models.flows import FlowCell, channel_mask

CHANNELS, SIDE = 3, 4
SIZE = CHANNELS * SIDE * SIDE


def jacobian(flow: torch.nn.Module) -> Tensor:
    """∂z'/∂z of one image, positions in raster order and channels within a position."""
    z = torch.randn(1, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    full = torch.autograd.functional.jacobian(flow, z)[0, :, :, :, 0]
    return full.permute(1, 2, 0, 4, 5, 3).reshape(SIZE, SIZE)


def sharp(reverse: bool) -> FlowCell:
    """A flow whose weights are large enough to show what depends on what."""
    flow = FlowCell(CHANNELS, reverse=reverse).double()
    for parameter in flow.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    return flow


def test_flow_depends_on_earlier_places_alone() -> None:
    derivative = jacobian(sharp(reverse=False)) - torch.eye(SIZE)
    assert not derivative.triu().any()
    assert (derivative.tril(-1) != 0).float().mean() > 0.1


def test_reverse_flow_runs_backwards_over_positions_and_forwards_over_channels() -> None:
    derivative = jacobian(sharp(reverse=True)) - torch.eye(SIZE)
    blocks = derivative.view(SIDE**2, CHANNELS, SIDE**2, CHANNELS)
    for place in range(SIDE**2):
        assert not blocks[place, :, :place].any()  # nothing of the places before
        assert not blocks[place, :, place].triu().any()  # of its own: earlier channels
    assert blocks[0, :, 1:].any()


@pytest.mark.parametrize("reverse", [False, True])
def test_flow_keeps_volumes(reverse: bool) -> None:
    determinant = torch.linalg.det(jacobian(sharp(reverse)))
    torch.testing.assert_close(determinant, torch.ones((), dtype=torch.float64))


def test_flow_starts_near_the_identity() -> None:
    z = torch.randn(2, CHANNELS, SIDE, SIDE)
    assert (FlowCell(CHANNELS, reverse=False)(z) - z).abs().max() < 0.2


@pytest.mark.parametrize(
    ("outputs", "inputs", "expected"),
    [
        (4, 2, [[1, 0], [1, 0], [1, 1], [1, 1]]),
        (2, 4, [[1, 1, 0, 0], [1, 1, 1, 1]]),
        (3, 3, [[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    ],
)
def test_output_sees_the_blocks_up_to_its_own(
    outputs: int, inputs: int, expected: list[list[int]]
) -> None:
    assert channel_mask(outputs, inputs, 1, sees_itself=True).tolist() == expected


@pytest.mark.parametrize(
    ("outputs", "inputs", "expected"),
    [(4, 2, [[0, 0], [0, 0], [1, 0], [1, 0]]), (2, 4, [[0, 0, 0, 0], [1, 1, 0, 0]])],
)
def test_output_sees_the_blocks_before_its_own(
    outputs: int, inputs: int, expected: list[list[int]]
) -> None:
    assert channel_mask(outputs, inputs, 1, sees_itself=False).tolist() == expected
