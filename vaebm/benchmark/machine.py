"""What this machine can do at best: products of matrices, convolutions, those of a model alone."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from vaebm.benchmark.clock import Work, seconds

SIDE = 2048  # of the matrices
CONVOLUTIONS = {  # channels in, channels out, kernel, side: where NVAE spends its time
    "convolution_1x1": (256, 1536, 1, 16),
    "convolution_3x3": (128, 128, 3, 32),
}
aten = torch.ops.aten


def flops_of(work: Work) -> int:
    """Floating-point operations of one call; a multiplication with an addition counts as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    total: int = counter.get_total_flops()
    return total


def standard_works(batch_size: int, device: torch.device, dtype: torch.dtype) -> dict[str, Work]:
    """A product of matrices, and convolutions with their gradient to the input.

    Args:
        batch_size: Images of the convolutions.
        device: Where.
        dtype: Type of all numbers.
    """
    matrix = torch.randn(SIDE, SIDE, device=device, dtype=dtype)
    works: dict[str, Work] = {"matmul": lambda: matrix @ matrix}
    for name, shape in CONVOLUTIONS.items():
        works[name] = convolution(shape, batch_size, device, dtype)
    return works


def convolution(
    shape: tuple[int, int, int, int], batch_size: int, device: torch.device, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """A convolution and the transposed one, which is its gradient to the input."""
    width_in, width_out, kernel, side = shape

    def draw(*sizes: int) -> Tensor:
        tensor = torch.randn(*sizes, device=device, dtype=dtype)
        return tensor.to(memory_format=torch.channels_last)

    image = draw(batch_size, width_in, side, side)
    weight = draw(width_out, width_in, kernel, kernel)

    def work() -> Tensor:
        features = F.conv2d(image, weight, padding=kernel // 2)
        return F.conv_transpose2d(features, weight, padding=kernel // 2)

    return work


class Blank(NamedTuple):
    """What a tensor looks like, without its values."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "Blank":
        """The looks of a tensor."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def filled(self) -> Tensor:
        """A random tensor that looks so."""
        tensor = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return tensor.normal_()


class ConvolutionCalls(TorchDispatchMode):
    """Notes which convolutions are computed inside, forward and backward.

    Attributes:
        calls: How often, by operator and arguments.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[tuple[Any, tuple[Any, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a convolution, and compute everything."""
        if func.overloadpacket in (aten.convolution, aten.convolution_backward):
            looks = tree_map_only(Tensor, Blank.of, args)
            self.calls[func, tuple(hashable(look) for look in looks)] += 1
        return func(*args, **(kwargs or {}))

    @torch.no_grad()
    def seconds(self, device: torch.device) -> float:
        """Time of all those convolutions and nothing else, each kind timed at its second call."""
        total = 0.0
        for (func, looks), count in self.calls.items():
            args = [look.filled() if isinstance(look, Blank) else look for look in looks]
            func(*args)
            total += count * seconds(lambda f=func, a=args: f(*a), device)  # type: ignore[misc]
        return total


def hashable(value: Any) -> Any:
    """Lists as tuples, which operators take as well."""
    return tuple(value) if isinstance(value, list) else value
