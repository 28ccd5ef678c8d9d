"""A convolution whose weights are constants: its backward pass does not need its input."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenConv2d(nn.Conv2d):
    """`nn.Conv2d` without gradients for its weights, for which it need not keep its input.

    Torch keeps the input of every convolution, also where only the gradient to it is wanted: half
    of what a chain's step remembers. The input is converted to the weights' type.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` to features ``(B, C', H', W')``."""
        output: Tensor = FrozenConvolution.apply(
            input.to(self.weight.dtype),
            self.weight,
            self.bias,
            (self.stride, self.padding, self.dilation, self.groups),
        )
        return output


class FrozenConvolution(torch.autograd.Function):
    """Convolution that is differentiated with respect to its input alone."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, options: tuple[Any, ...]
    ) -> Tensor:
        """The convolution."""
        ctx.save_for_backward(weight)
        ctx.sides, ctx.options = features.shape[2:], options
        return F.conv2d(features, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient with respect to the features, a transposed convolution."""
        (grad,), (weight,) = grads, ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        # What strides left out at the end comes back as zeros.
        rest = [
            side - ((out - 1) * step - 2 * margin + spread * (kernel - 1) + 1)
            for side, out, step, margin, spread, kernel in zip(
                ctx.sides, grad.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
        features = F.conv_transpose2d(grad, weight, None, stride, padding, rest, groups, dilation)
        return features, None, None, None
