"""The frozen VAE and energy as chains use them."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vaebm.models.base import VAE, Energy
from vaebm.models.fold import plain
from vaebm.models.layers import frozen


class ChainNetworks:
    """Keeps copies of both networks in which all is computed that does not change during a chain.

    The generator is made anew where the VAE has changed or moved. The energy changes with every
    training step: its copy takes over the weights in place, so that recorded graphs stay valid.
    Under autocast convolutions hold weights of its type. This is no module: checkpoints do not hold
    the weights twice.
    """

    def __init__(self) -> None:
        self._decoder: VAE | None = None
        self._weights: list[Any] = []
        self._energy: Energy | None = None
        self._layout: list[Any] = []

    # Lightning samples in inference mode, whose tensors no backward pass may save.
    @torch.inference_mode(False)
    @torch.no_grad()
    def decoder_of(self, vae: VAE) -> VAE:
        """The generator of a VAE in evaluation mode, with its weights of now."""
        tensors = list(tensors_of(vae))
        weights = [(id(vae), half_type(tensors)), *map(version, tensors)]
        if self._decoder is None or weights != self._weights:
            decoder = vae.for_chains()
            self._decoder = plain(vae) if decoder is vae else decoder
            halve(self._decoder, half_type(tensors))
            self._weights = weights
        return self._decoder

    @torch.inference_mode(False)
    @torch.no_grad()
    def energy_of(self, energy: Energy) -> Energy:
        """The energy in evaluation mode, with its weights of now."""
        tensors = list(tensors_of(energy))
        layout = [(id(energy), half_type(tensors)), *map(kind, tensors)]
        if self._energy is None or layout != self._layout:
            with frozen(energy):
                self._energy, self._layout = plain(energy), layout
            halve(self._energy, half_type(tensors))
        with frozen(energy):  # weights can depend on the mode
            for name, tensor in named_tensors(self._energy):
                tensor.copy_(tensor_at(energy, name))
        return self._energy


def halve(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Store the weights of convolutions in autocast's type: it need not convert them each time."""
    if dtype is not None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(dtype)


def half_type(tensors: list[Tensor]) -> torch.dtype | None:
    """The type that autocast computes convolutions of float32 tensors in, if it is on."""
    if not tensors or tensors[0].dtype != torch.float32:
        return None
    device = tensors[0].device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers without names, which take torch three times as long to make."""
    for tensor in chain(module._parameters.values(), module._buffers.values()):
        if tensor is not None:
            yield tensor
    for child in module._modules.values():
        if child is not None:
            yield from tensors_of(child)


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def tensor_at(module: nn.Module, name: str) -> Tensor:
    """A parameter, buffer or parametrized weight by name."""
    *path, last = name.split(".")
    tensor: Tensor = getattr(module.get_submodule(".".join(path)), last)
    return tensor


def version(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies and how often it was written to."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    """Shape, type and device of a tensor."""
    return tensor.shape, tensor.dtype, tensor.device
