"""Published energy networks: their layout, the names of their weights, their settings."""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

from torch import Tensor, nn

from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError
from vaebm.models.base import VAE
from vaebm.models.energy import LAYOUTS, Layout, ResidualEnergy
from vaebm.official.names import leaf
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace

# The chains that the released code samples with; those that it trains with are shorter.
CHAINS: dict[str, dict[str, Any]] = {
    "cifar32": {"num_steps": 16, "step_size": 8e-5},
    "celeba64": {"num_steps": 20, "step_size": 5e-6},
    "lsun64": {"num_steps": 20, "step_size": 4e-6},
    "celeba256": {"num_steps": 24, "step_size": 3e-6},
}

# How it trains; the weights are no new ones that data would have to initialise.
COMMON: dict[str, Any] = {
    "lr": 4e-5,
    "betas": (0.99, 0.999),
    "weight_decay": 3e-5,
    "spectral_weight": 0.2,
    "contrast": "mean",
    "gradient_bound": True,
    "data_init_batches": 0,
}

# Where a layout differs from the others.
TRAINING: dict[str, dict[str, Any]] = {
    "cifar32": {"contrast": "sample"},
    "celeba64": {"lr": 5e-5},
    "celeba256": {"spectral_weight": 0.3},
}


def energy_stage(energy: ResidualEnergy, vae: VAE) -> EBMStage:
    """Stage 2 of a published energy network and its VAE, with the settings of the release.

    Args:
        energy: The network, of one of the known layouts.
        vae: The VAE that it was trained on.
    """
    multipliers = tuple(energy.init_args["multipliers"])
    layout = next(name for name in LAYOUTS if LAYOUTS[name].multipliers == multipliers)
    sampler = LangevinSampler(**CHAINS.get(layout, {}))
    return EBMStage(
        energy,
        sampler,
        NoiseSpace(prior="joint"),
        vae=vae,
        **{**COMMON, **TRAINING.get(layout, {})},
    )


def energy_arguments(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `ResidualEnergy` that published weights stand for.

    Raises:
        DataError: If their blocks are those of no known layout.
    """
    layout = LAYOUTS[layout_of(weights)]
    channels, image_channels = weights["conv1.weight"].shape[:2]
    return {"image_channels": image_channels, "channels": channels, **layout._asdict()}


def layout_of(weights: Mapping[str, Tensor]) -> str:
    """The name of the layout whose blocks have the widths and the skips of published weights.

    Raises:
        DataError: If there is none.
    """
    channels = _rows(weights, "conv1.weight")
    if not channels:
        raise DataError("it holds no conv1.weight of a convolution, without which nothing is known")
    blocks = (f"blocks.{block}.conv" for block in count())
    both = (
        _rows(weights, f"{conv}1.weight") or _rows(weights, f"{conv}2.weight") for conv in blocks
    )
    widths = tuple(takewhile(bool, both))
    skips = tuple(
        block
        for block in range(len(widths))
        if any(key.startswith(f"blocks.{block}.skip.") for key in weights)
    )
    for name, layout in LAYOUTS.items():
        if (widths, skips) == (widths_of(layout, channels), skips_of(layout)):
            return name
    raise DataError(
        f"its {len(widths)} blocks of widths {list(widths)}, after {channels} channels, and skip "
        f"convolutions in blocks {list(skips)} are those of no known layout: {', '.join(LAYOUTS)}"
    )


def widths_of(layout: Layout, channels: int) -> tuple[int, ...]:
    """The channels of each block's output."""
    return tuple(channels * factor for factor in layout.multipliers)


def skips_of(layout: Layout) -> tuple[int, ...]:
    """Numbers of the blocks with a convolution on their skip: they halve or change the width."""
    inputs = (1, *layout.multipliers)
    pairs = enumerate(zip(inputs, layout.multipliers, strict=False))
    return tuple(
        block for block, (first, last) in pairs if first != last or block in layout.halvings
    )


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    """The output channels of a convolution, 0 if there is no such one."""
    weight = weights.get(name)
    return weight.shape[0] if weight is not None and weight.ndim == 4 else 0


def energy_names(energy: ResidualEnergy) -> dict[str, str]:
    """The published name of every weight of an energy network, by ours."""
    return {
        f"{place}.{name}": f"{place.replace('.skip', '.skip.0')}.{leaf(name)}"
        for place, layer in energy.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
        for name, _ in layer.named_parameters()
    }
