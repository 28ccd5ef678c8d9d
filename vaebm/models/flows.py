"""Volume-preserving autoregressive flows on the posterior of a latent group."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaebm.models.layers import LogWeightNorm


class FlowCell(nn.Module):
    """z − m(z), where m at a place depends only on places before it, so that log |det ∂z'/∂z| = 0.

    m is a masked 3×3 convolution, a masked depthwise 5×5 one and a masked 1×1 one, over positions
    in raster order and, at one position, over channels.

    Args:
        channels: Channels of z.
        reverse: Run through the positions backwards.

    References:
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016);
        NVAE (Vahdat, Kautz, 2020), section 3.2.
    """

    def __init__(self, channels: int, *, reverse: bool) -> None:
        super().__init__()
        hidden = 6 * channels
        expand = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        spatial = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden, bias=False)
        project = nn.Conv2d(hidden, channels, 1)
        self.expand = masked(expand, sees_itself=False, reverse=reverse)
        self.spatial = masked(spatial, sees_itself=True, reverse=reverse)
        self.project = masked(project, sees_itself=True, reverse=reverse, gain=0.1)

    def forward(self, z: Tensor) -> Tensor:
        """Latents ``(B, L, h, w)`` to latents of the same shape."""
        hidden = F.elu(self.spatial(F.elu(self.expand(z))))
        # The published flow applies this activation twice.
        move: Tensor = self.project(F.elu(hidden))
        return z - move


class Mask(nn.Module):
    """Parametrization that sets some of a weight's entries to zero.

    Args:
        mask: 1 for the entries to keep, shaped like the weight or broadcastable to it.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with zeros."""
        return weight * self.mask


def masked(conv: nn.Conv2d, *, sees_itself: bool, reverse: bool, gain: float = 1.0) -> nn.Conv2d:
    """Make a convolution causal and weight-normalised, in place.

    Args:
        conv: The convolution.
        sees_itself: Let an output see its own channel at its own position.
        reverse: Let it see the positions behind its own instead of those before.
        gain: Factor on the initial weights.
    """
    centre = channel_mask(conv.out_channels, conv.in_channels, conv.groups, sees_itself)
    mask = causal_mask(centre, conv.kernel_size[0], reverse)
    parametrize.register_parametrization(conv, "weight", Mask(mask))
    parametrize.register_parametrization(conv, "weight", LogWeightNorm(conv.weight, gain))
    return conv


def channel_mask(outputs: int, inputs: int, groups: int, sees_itself: bool) -> Tensor:
    """Which input channels an output channel sees at its own position.

    The wider side is cut into as many blocks as the narrower one has channels: an output sees the
    blocks before its own, and its own if `sees_itself`.

    Returns:
        Zeros and ones, ``(O, I)``; of a depthwise convolution ``(O, 1)``.
    """
    if groups > 1:
        return torch.full((outputs, 1), float(sees_itself))
    blocks = min(outputs, inputs)
    own = torch.arange(outputs) * blocks // outputs
    seen = torch.arange(inputs) * blocks // inputs
    earlier = own[:, None] >= seen if sees_itself else own[:, None] > seen
    return earlier.float()


def causal_mask(centre: Tensor, kernel_size: int, reverse: bool) -> Tensor:
    """The mask of a kernel: all positions before the centre, and `centre` there.

    Args:
        centre: Mask of the channels at the centre, ``(O, I)``.
        kernel_size: Side k of the kernel, odd.
        reverse: Mirror the kernel, so that it sees the positions behind.

    Returns:
        Zeros and ones, ``(O, I, k, k)``.
    """
    middle = kernel_size * kernel_size // 2
    mask = torch.zeros(*centre.shape, kernel_size * kernel_size)
    mask[..., :middle] = 1
    mask[..., middle] = centre
    square: Tensor = mask.unflatten(-1, (kernel_size, kernel_size))
    return square.flip(2, 3) if reverse else square
