"""The names of weights in published NVAE files."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from vaebm.models.cells import Cell, DownSkip, MobileConv
from vaebm.models.flows import FlowCell
from vaebm.models.nvae import NVAE


class Place(NamedTuple):
    """Where a module stands in our model and in the published one."""

    ours: str
    theirs: str


def official_names(vae: NVAE) -> dict[str, str]:
    """The published name of every weight and running statistic.

    Args:
        vae: A model of the same architecture.

    Returns:
        Published names by ours, of all entries of the state dict but the spectral penalty's.
    """
    prefixes = {place.ours + ".": place.theirs + "." for place in module_places(vae)}
    names = {"generator.constant": "prior_ftr0"}
    for name in vae.state_dict():
        if name.startswith(("spectral.", "generator.constant")):
            continue
        ours = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len)
        names[name] = prefixes[ours] + leaf(name.removeprefix(ours))
    return names


def leaf(name: str) -> str:
    """The published name of a parameter within its layer."""
    return re.sub(r"^parametrizations\.weight\.(original|\d+\.)", _weight, name)


def _weight(match: re.Match[str]) -> str:
    return "weight" if match[1] == "original" else ""


def module_places(vae: NVAE) -> Iterator[Place]:
    """All layers that hold parameters, ours and theirs."""
    yield Place("encoder.stem", "stem")
    yield Place("encoder.top.1", "enc0.1")
    yield Place("generator.head.1", "image_conditional.1")
    for group in range(len(vae.generator.groups)):
        yield Place(f"encoder.posteriors.{group}", f"enc_sampler.{group}")
    for group in range(1, len(vae.generator.groups)):
        yield Place(f"generator.groups.{group}.prior.1", f"dec_sampler.{group - 1}.1")
    for place in [*cell_places(vae), *flow_places(vae)]:
        yield from inner_places(vae.get_submodule(place.ours), place)


def cell_places(vae: NVAE) -> Iterator[Place]:
    """Cells and combiners: the published towers are flat lists of both."""
    for number in range(len(vae.encoder.preprocess)):
        yield Place(f"encoder.preprocess.{number}", f"pre_process.{number}")
    place, last = 0, len(vae.encoder.tower) - 1
    for number, block in enumerate(vae.encoder.tower):
        for cell in range(len(block)):  # type: ignore[arg-type]
            yield Place(f"encoder.tower.{number}.{cell}", f"enc_tower.{place}")
            place += 1
        if number < last:
            yield Place(f"encoder.combiners.{last - 1 - number}", f"enc_tower.{place}.conv")
            place += 1
    place = 0
    for number, group in enumerate(vae.generator.groups):
        for cell in range(len(group.cells)):  # type: ignore[arg-type]
            yield Place(f"generator.groups.{number}.cells.{cell}", f"dec_tower.{place}")
            place += 1
        merge = "stem_decoder" if vae.generator.plan.vanilla else f"dec_tower.{place}.conv"
        yield Place(f"generator.groups.{number}.merge", merge)
        place += 1
    for number in range(len(vae.generator.postprocess)):
        yield Place(f"generator.postprocess.{number}", f"post_process.{number}")


def flow_places(vae: NVAE) -> Iterator[Place]:
    """Flow cells, in pairs."""
    pairs = 0
    for group, flows in enumerate(vae.encoder.flows):
        for cell in range(len(flows)):  # type: ignore[arg-type]
            theirs = f"nf_cells.{pairs + cell // 2}.cell{cell % 2 + 1}"
            yield Place(f"encoder.flows.{group}.{cell}", theirs)
        pairs += len(flows) // 2  # type: ignore[arg-type]


def inner_places(module: nn.Module, place: Place) -> Iterator[Place]:
    """The layers inside a cell, or the layer itself."""
    if isinstance(module, FlowCell):
        inner = {"expand": "conv.convz.0", "spatial": "conv.convz.2", "project": "mu.conv_0"}
    elif isinstance(module, Cell):
        inner = {"se.squeeze": "se.se.0", "se.excite": "se.se.2", "skip.conv": "skip.1"}
        if isinstance(module.skip, DownSkip):
            inner = {**inner, **{f"skip.convs.{k}": f"skip.conv_{k + 1}" for k in range(4)}}
        for number, operator in enumerate(module.ops):
            for ours, theirs in operator_names(operator).items():
                inner[f"ops.{number}.{ours}"] = f"_ops.{number}.{theirs}"
    else:
        yield place
        return
    for ours, theirs in inner.items():
        yield Place(f"{place.ours}.{ours}", f"{place.theirs}.{theirs}")


def operator_names(operator: nn.Module) -> dict[str, str]:
    """The layers of an operator, theirs by ours."""
    if isinstance(operator, MobileConv):
        first = int("upsample" in operator._modules)  # the published list counts the up-sampler
        return {
            "norm": f"conv.{first}.bn",
            "expand": f"conv.{first + 1}.conv.0",
            "expand_norm": f"conv.{first + 1}.conv.1",
            "spatial": f"conv.{first + 2}.conv.0",
            "spatial_norm": f"conv.{first + 2}.conv.1",
            "project": f"conv.{first + 3}",
            "project_norm": f"conv.{first + 4}.bn",
        }
    fused = isinstance(operator.activation, nn.SiLU)
    return {"norm": "bn_act" if fused else "bn.bn", "conv": "conv_0"}
