"""The exponential linear unit, faster on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn


class FastELU(nn.ELU):
    """`nn.ELU`: x above zero, exp(x) − 1 below.

    Torch computes expm1 number by number on a CPU, which takes ten times as long as exp. Here it is
    exp, to an absolute error of 1e-7 in float32. In half precision, where the difference to 1 would
    lose all digits, on other devices and for another α it is torch's own.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Features of any shape to features of the same shape."""
        wide = input.dtype in (torch.float32, torch.float64)
        if input.device.type != "cpu" or self.alpha != 1 or not wide:
            return super().forward(input)
        output: Tensor = ELUFunction.apply(input)
        return output


class ELUFunction(torch.autograd.Function):
    """ELU that keeps its output alone."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """max(x, 0) + exp(min(x, 0)) − 1."""
        output = features.clamp(max=0).exp_().sub_(1).add_(features.clamp(min=0))
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """dL/dx = dL/dy · (1 + min(y, 0))."""
        (grad,), (output,) = grads, ctx.saved_tensors
        slope: Tensor = grad * (output.clamp(max=0) + 1)
        return slope
