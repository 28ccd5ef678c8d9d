"""Residual cells of NVAE, made of the operators that its architectures name."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaebm.errors import UsageError
from vaebm.models.layers import SqueezeExcitation, wn_conv
from vaebm.registry import unknown_name

UP = -1  # the stride that doubles the resolution
CORNERS = ((0, 0), (1, 1), (0, 1), (1, 0))  # row and column of a pixel in its block of four

MakeOp = Callable[[int, int, int], nn.Module]  # channels in, channels out, stride


class Architecture(NamedTuple):
    """The operators of each kind of cell.

    Attributes:
        encoder: Cells of the bottom-up tower.
        decoder: Cells of the top-down tower.
        preprocess: Cells before the bottom-up tower.
        postprocess: Cells after the top-down tower.
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    preprocess: tuple[str, ...]
    postprocess: tuple[str, ...]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the momentum of NVAE."""
    return nn.BatchNorm2d(channels, momentum=0.05)


def upsample() -> nn.Upsample:
    """Doubles the resolution by repeating pixels."""
    return nn.Upsample(scale_factor=2, mode="nearest")


class ResidualConv(nn.Sequential):
    """Batch norm, activation, 3×3 convolution: half of a residual pair.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: 1, 2 to halve the resolution or -1 to double it.
        activation: Makes the activation.
        norm: Normalise first.
        dilation: Distance of the kernel's entries.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        *,
        activation: Callable[[], nn.Module] = nn.SiLU,
        norm: bool = True,
        dilation: int = 1,
    ) -> None:
        layers: dict[str, nn.Module] = {"norm": batch_norm(channels_in)} if norm else {}
        layers["activation"] = activation()
        if stride == UP:
            layers["upsample"] = upsample()
        layers["conv"] = wn_conv(
            channels_in, channels_out, 3, stride=abs(stride), dilation=dilation
        )
        super().__init__(OrderedDict(layers))


class MobileConv(nn.Sequential):
    """Inverted residual: expand by a 1×1, convolve each channel, project by a 1×1 convolution.

    Every convolution is followed by batch norm, and its weight is not normalised.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: 1, 2 to halve the resolution or -1 to double it.
        expand: Hidden channels per channel of the input.
        kernel_size: Side of the spatial kernel.
        groups: Groups of the spatial convolution; None gives every channel its own.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        *,
        expand: int,
        kernel_size: int,
        groups: int | None = None,
    ) -> None:
        hidden = expand * channels_in
        spatial = nn.Conv2d(
            hidden,
            hidden,
            kernel_size,
            stride=abs(stride),
            padding=kernel_size // 2,
            groups=groups or hidden,
            bias=False,
        )
        layers: dict[str, nn.Module] = {"upsample": upsample()} if stride == UP else {}
        layers |= {
            "norm": batch_norm(channels_in),
            "expand": nn.Conv2d(channels_in, hidden, 1, bias=False),
            "expand_norm": batch_norm(hidden),
            "expand_activation": nn.SiLU(),
            "spatial": spatial,
            "spatial_norm": batch_norm(hidden),
            "spatial_activation": nn.SiLU(),
            "project": nn.Conv2d(hidden, channels_out, 1, bias=False),
            "project_norm": batch_norm(channels_out),
        }
        super().__init__(OrderedDict(layers))


OPERATORS: dict[str, MakeOp] = {
    "res_bnswish": ResidualConv,
    "res_bnswish5": partial(ResidualConv, dilation=2),  # a 3×3 kernel that spans 5×5
    "res_bnelu": partial(ResidualConv, activation=nn.ELU),
    "res_elu": partial(ResidualConv, activation=nn.ELU, norm=False),
    "mconv_e3k5g0": partial(MobileConv, expand=3, kernel_size=5),
    "mconv_e3k5g8": partial(MobileConv, expand=3, kernel_size=5, groups=8),
    "mconv_e6k5g0": partial(MobileConv, expand=6, kernel_size=5),
    "mconv_e6k11g0": partial(MobileConv, expand=6, kernel_size=11),
}

R3, R5 = "res_bnswish", "res_bnswish5"
M3, M6, M3G8, M6K11 = "mconv_e3k5g0", "mconv_e6k5g0", "mconv_e3k5g8", "mconv_e6k11g0"

# NVAE's tables; all published models are res_mbconv.
ARCHITECTURES = {
    "res_mbconv": Architecture((R3, R3), (M6,), (R3, R3), (M3,)),
    "res_bnswish": Architecture(*[(R3, R3)] * 4),
    "res_bnelu": Architecture(*[("res_bnelu", "res_bnelu")] * 4),
    "res_elu": Architecture(*[("res_elu", "res_elu")] * 4),
    "mbconv_sep": Architecture((M6,), (M6,), (M3,), (M3,)),
    "mbconv_sep11": Architecture((M6K11,), (M6K11,), (M3,), (M3,)),
    "mbconv_res": Architecture((M6,), (R3, R3), (M3,), (R3, R3)),
    "mbconv_den": Architecture((M6,), (M6,), (M3G8,), (M3G8,)),
    "res53_mbconv": Architecture((R5, R3), (M6,), (R5, R3), (M3,)),
    "res35_mbconv": Architecture((R3, R5), (M6,), (R3, R5), (M3,)),
    "res55_mbconv": Architecture((R5, R5), (M6,), (R5, R5), (M3,)),
}


def operators_of(name: str) -> Architecture:
    """The operators that an architecture's name stands for.

    Raises:
        UsageError: If there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise UsageError(unknown_name(name, ARCHITECTURES, "architectures of NVAE"))
    return ARCHITECTURES[name]


class DownSkip(nn.Module):
    """Skip connection at half the resolution: four 1×1 convolutions, each of one pixel in four.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        widths = [channels_out // 4] * 3
        widths.append(channels_out - sum(widths))
        self.convs = nn.ModuleList(wn_conv(channels_in, width) for width in widths)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to ``(B, C', H/2, W/2)``."""
        active = F.silu(features)
        # Every second pixel instead of a stride: oneDNN's strided 1×1 convolution writes out of
        # bounds in the backward pass where tensors are channels-last and the output narrow.
        corners = [active[:, :, row::2, column::2] for row, column in CORNERS]
        parts = [conv(corner) for conv, corner in zip(self.convs, corners, strict=True)]
        return torch.cat(parts, dim=1)


class UpSkip(nn.Module):
    """Skip connection at twice the resolution: 1×1 convolution and bilinear interpolation.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = wn_conv(channels_in, channels_out, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to ``(B, C', 2H, 2W)``."""
        # The two commute where there is no bias; the convolution is cheaper before.
        return F.interpolate(
            self.conv(features), scale_factor=2, mode="bilinear", align_corners=True
        )


class Cell(nn.Module):
    """A residual cell: skip(x) + 0.1 · SE(op_n(... op_1(x))).

    Args:
        operators: Names of the operators; the first one changes width and resolution.
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: 1, 2 to halve the resolution or -1 to double it.
        squeeze_excitation: Gate the channels of the branch.
    """

    def __init__(
        self,
        operators: Iterable[str],
        channels_in: int,
        channels_out: int,
        stride: int = 1,
        *,
        squeeze_excitation: bool,
    ) -> None:
        super().__init__()
        skips = {1: nn.Identity, 2: DownSkip, UP: UpSkip}
        self.skip = skips[stride](channels_in, channels_out)
        ops: list[nn.Module] = []
        for name in operators:
            place = (channels_out, channels_out, 1) if ops else (channels_in, channels_out, stride)
            ops.append(OPERATORS[name](*place))
        self.ops = nn.Sequential(*ops)
        self.se = SqueezeExcitation(channels_out) if squeeze_excitation else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to features of the new width and resolution."""
        branch = self.ops(features)
        if isinstance(self.se, SqueezeExcitation):  # gate, scale and sum in one pass
            return torch.addcmul(self.skip(features), branch, self.se.gates(branch), value=0.1)
        return torch.add(self.skip(features), branch, alpha=0.1)
