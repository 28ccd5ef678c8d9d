"""Energy networks as their reference describes them, function by function over published names.

Nothing here uses the package: it is what the converted networks are compared with.
"""

from collections import OrderedDict
from math import sqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Widths of the blocks in multiples of the first; a "d" is a block that halves the image.
TABLES = {
    "cifar32": "1d 1 2d 2 2d 2",
    "celeba64": "1d 1 2d 2 2d 4 4d 4",
    "lsun64": "1d 1 2d 2 2 2d 4 4 4d 4",
    "celeba256": "1d 1 2d 2 2d 2 4d 4 4d 4 8d 8",
    "mnist": "1d 1 2d 2",
}


class Block(NamedTuple):
    """A residual block: widths before and after it, and whether it halves."""

    before: int
    after: int
    down: bool

    @property
    def has_skip(self) -> bool:
        return self.down or self.before != self.after


def blocks_of(table: str, width: int) -> list[Block]:
    """The blocks of a network of some first width."""
    blocks: list[Block] = []
    for word in TABLES[table].split():
        before = blocks[-1].after if blocks else width
        blocks.append(Block(before, width * int(word.rstrip("d")), word.endswith("d")))
    return blocks


def random_energy(
    table: str, width: int = 4, colours: int = 3, seed: int = 0
) -> OrderedDict[str, Tensor]:
    """Weights under published names, all of them random enough to show in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    weights: OrderedDict[str, Tensor] = OrderedDict()

    def conv(name: str, before: int, after: int, size: int, *, bias: bool = True) -> None:
        weights[f"{name}.weight"] = torch.randn(after, before, size, size, generator=generator)
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(after, generator=generator)
        # Lengths near exp(0.6) keep the size of the signal and of the gradient through all layers.
        length = 0.2 * torch.randn(after, 1, 1, 1, generator=generator)
        weights[f"{name}.log_weight_norm"] = length + 0.6

    conv("conv1", colours, width, 3)
    for i, block in enumerate(blocks_of(table, width)):
        conv(f"blocks.{i}.conv1", block.before, block.after, 3)
        conv(f"blocks.{i}.conv2", block.after, block.after, 3)
        if block.has_skip:
            conv(f"blocks.{i}.skip.0", block.before, block.after, 1, bias=False)
    last = block.after
    weights["linear.weight"] = torch.randn(1, last, generator=generator) / sqrt(last)
    weights["linear.bias"] = torch.randn(1, generator=generator)
    return weights


def content(weights: dict[str, Tensor]) -> dict[str, Any]:
    """What a published file holds besides the weights: the state of Adam."""
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4, 3, 3, 3)}}
    group = {"lr": 4e-5, "betas": (0.99, 0.999), "params": list(range(len(weights)))}
    return {"model": weights, "optimizer": {"state": state, "param_groups": [group]}}


class OfficialEnergy:
    """A published energy network, read off its weights and its table."""

    def __init__(self, weights: dict[str, Tensor], table: str) -> None:
        self.w = weights
        self.blocks = blocks_of(table, len(weights["conv1.weight"]))
        self.used: set[str] = set()

    def get(self, name: str) -> Tensor:
        self.used.add(name)
        return self.w[name]

    def conv(self, x: Tensor, name: str, *, bias: bool = True) -> Tensor:
        weight = self.get(f"{name}.weight")
        norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        weight = self.get(f"{name}.log_weight_norm").exp() * weight / (norm + 1e-5)
        padding = weight.shape[-1] // 2
        return F.conv2d(x, weight, self.get(f"{name}.bias") if bias else None, padding=padding)

    def __call__(self, image: Tensor) -> Tensor:
        h = activation(self.conv(image, "conv1"))
        for i, block in enumerate(self.blocks):
            name = f"blocks.{i}"
            skip = self.conv(h, f"{name}.skip.0", bias=False) if block.has_skip else h
            h = self.conv(activation(self.conv(h, f"{name}.conv1")), f"{name}.conv2") + skip
            h = activation(F.avg_pool2d(h, 2) if block.down else h)
        weight, bias = self.get("linear.weight"), self.get("linear.bias")
        return (h.sum((2, 3)) @ weight.T + bias).squeeze(1)


def activation(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x) / 1.1
