"""Data-dependent initialisation of weight-normalised convolutions."""

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaebm.models.layers import LogWeightNorm


@torch.no_grad()
def data_dependent_init(network: nn.Module, images: Tensor) -> None:
    """Scale weight-normalised convolutions so that a batch leaves each with mean 0 and std 0.2.

    With y the output for the unit-length weights V / (‖V‖ + 1e-5), without bias, m = mean(y) and
    s = 5 · std(y) over images and positions, for each channel: the log length becomes −log s and
    the bias −m / s. In the order in which the layers are called, each sees what those before it
    became.

    Args:
        network: The network; layers without bias only get their length, other layers stay.
        images: Images of the training data, ``(B, C, H, W)``.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020), after Weight
        Normalization (Salimans, Kingma, 2016).
    """
    with ExitStack() as hooks:
        for layer in network.modules():
            norm = log_weight_norm_of(layer)
            if norm is not None:
                hooks.enter_context(layer.register_forward_pre_hook(_initialise))
        network(images)


def log_weight_norm_of(layer: nn.Module) -> LogWeightNorm | None:
    """The weight normalisation of a layer, if it has one."""
    if not (isinstance(layer, nn.Conv2d) and parametrize.is_parametrized(layer, "weight")):
        return None
    last = layer.parametrizations.weight[-1]  # type: ignore[index, union-attr]
    return last if isinstance(last, LogWeightNorm) else None


def _initialise(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Set one convolution from its input, before it is called."""
    assert isinstance(layer, nn.Conv2d)
    norm = log_weight_norm_of(layer)
    assert norm is not None
    norm.log_weight_norm.zero_()
    output = F.conv2d(
        inputs[0], layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
    )
    mean, scale = output.mean((0, 2, 3)), 5 * output.std((0, 2, 3)) + 1e-5
    norm.log_weight_norm.copy_(-scale.log()[:, None, None, None])
    if layer.bias is not None:
        layer.bias.copy_(-mean / scale)
