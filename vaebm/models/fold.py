"""A generator for chains: what does not change during them is computed once, before them."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vaebm.models.cells import Cell
from vaebm.models.fast_elu import FastELU
from vaebm.models.frozen_conv import FrozenConv2d
from vaebm.models.tower import Generator

Module = TypeVar("Module", bound=nn.Module)
POINTWISE = (nn.BatchNorm2d, nn.SiLU, nn.ELU)  # each pixel by itself, in evaluation mode


def folded(generator: Generator) -> Generator:
    """A generator that gives the same images with less work, in evaluation mode alone.

    Weights are normalised once, batch norms become part of the convolution before them, or of the
    1×1 convolution after them, and what acts on single pixels comes before an up-sampling. The
    batch norm at the start of a cell of 3×3 convolutions stays: a margin of zeros follows it.

    Args:
        generator: The generator; not changed, and no weight of the result follows it.
    """
    twin = plain(generator).eval()
    for module in twin.modules():
        if isinstance(module, Cell):
            module.ops = nn.Sequential(*fold(delay_upsampling(leaves(module.ops))))
    twin.to(memory_format=torch.channels_last)
    return twin


def plain(module: Module) -> Module:
    """A copy whose weights are constants: not functions of others, and without gradients.

    Args:
        module: The network.
    """
    twin = deepcopy(module).requires_grad_(False)
    for layer in list(twin.modules()):
        if parametrize.is_parametrized(layer):
            names = list(layer.parametrizations)  # type: ignore[arg-type]
            weights = {name: getattr(layer, name).detach().clone() for name in names}
            # Torch's own removal changes the class, which the original layer shares.
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer.parametrizations
            for name, weight in weights.items():
                layer.register_parameter(name, nn.Parameter(weight, requires_grad=False))
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros":
            layer.__class__ = FrozenConv2d
        if type(layer) is nn.ELU:
            layer.__class__ = FastELU
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested sequences, in their order."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from leaves(child)
    else:
        yield module


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer treats each pixel by itself, so that it commutes with repeating pixels."""
    return isinstance(layer, POINTWISE) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (1, 1)
    )


def delay_upsampling(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The same layers with pixels repeated after what acts on each by itself."""
    order: list[nn.Module] = []
    waiting: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Upsample):
            waiting.append(layer)
            continue
        if not is_pointwise(layer):
            order += waiting
            waiting = []
        order.append(layer)
    return order + waiting


def fold(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Layers without the batch norms that can be part of a convolution."""
    result: list[nn.Module] = []
    for layer in layers:
        last = result[-1] if result else None
        if isinstance(layer, nn.Conv2d):
            if isinstance(last, nn.BatchNorm2d) and is_pointwise(layer):
                layer = norm_then_conv(last, layer)
                result.pop()
            result.append(layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            wide = fuse_conv_bn_eval(deepcopy(last).double(), deepcopy(layer).double())
            result[-1] = wide.to(last.weight.dtype)
        else:
            result.append(layer)
    return result


def norm_then_conv(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """A 1×1 convolution with the batch norm before it: W(s x + t) + b = (W s) x + (W t + b)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight = conv.weight.double()
    bias = weight[:, :, 0, 0] @ shift
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((weight * scale[None, :, None, None]).to(dtype), False)
    conv.bias = nn.Parameter(bias.to(dtype), False)
    return conv.eval()
