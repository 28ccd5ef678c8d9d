"""Layout of the published NVAE files: their arguments and the names of their weights."""

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from vaebm.errors import DataError, UsageError
from vaebm.models.cells import Cell, DownSkip, MobileConv, operators_of
from vaebm.models.flows import FlowCell
from vaebm.models.nvae import NVAE

# Fields that files of earlier versions of the code lack, with what that code did.
EARLIER: dict[str, bool | int] = {
    "ada_groups": False,
    "min_groups_per_scale": 1,
    "num_mixture_dec": 10,
}

Names = Iterator[tuple[str, str]]  # pairs (ours, theirs)


class Fields:
    """Reads the command line that a file was trained with, and says which field is wrong.

    Args:
        args: The file's `args`.
    """

    def __init__(self, args: Namespace) -> None:
        self.values = {**EARLIER, **vars(args)}

    def get(self, name: str, kind: type) -> Any:
        """The value of a field.

        Raises:
            DataError: If there is none, or one of another kind.
        """
        if name not in self.values:
            raise DataError(f"its args lack {name}, without which the model is not known")
        value = self.values[name]
        number = kind is float and type(value) is int
        if type(value) is not kind and not number:
            raise DataError(f"its args say {name}={value!r}, but {kind.__name__} is due")
        return kind(value)

    def whole(self, name: str) -> int:
        """A whole number."""
        return int(self.get(name, int))

    def real(self, name: str) -> float:
        """A number."""
        return float(self.get(name, float))

    def flag(self, name: str) -> bool:
        """Yes or no."""
        return bool(self.get(name, bool))

    def text(self, name: str) -> str:
        """A word."""
        return str(self.get(name, str))


def image_format(dataset: str) -> tuple[int, int]:
    """Colours and side of a data set's images, by its name on the command line.

    Raises:
        DataError: If the name says neither.
    """
    if dataset in ("mnist", "omniglot"):
        return 1, 32
    if dataset in ("stacked_mnist", "cifar10"):
        return 3, 32
    if dataset == "ffhq":
        return 3, 256
    sized = re.fullmatch(r"(?:celeba|imagenet|lsun_\w+)_(\d+)", dataset)
    if sized is None:
        raise DataError(f"its args say dataset={dataset!r}, whose image size is not known")
    return 3, int(sized[1])


def groups_per_scale(fields: Fields) -> list[int]:
    """Latent groups at each resolution, top-down.

    With adaptive groups their number is halved from each resolution to the one below.
    """
    number, groups = fields.whole("num_groups_per_scale"), []
    for _ in range(fields.whole("num_latent_scales")):
        groups.append(number)
        if fields.flag("ada_groups"):
            number = max(fields.whole("min_groups_per_scale"), number // 2)
    return groups[::-1]


def model_arguments(args: Namespace) -> dict[str, Any]:
    """The arguments of `NVAE` that a file's `args` stand for.

    Raises:
        DataError: If a field is missing or makes no sense.
    """
    fields = Fields(args)
    colours, side = image_format(fields.text("dataset"))
    blocks, mixtures = fields.whole("num_preprocess_blocks"), fields.whole("num_mixture_dec")
    if fields.whole("num_postprocess_blocks") != blocks:
        raise DataError("its args say num_postprocess_blocks ≠ num_preprocess_blocks")
    gaussian = "gaussian" if mixtures == 1 else "logistic_mixture"
    return {
        "image_shape": [colours, side, side],
        "likelihood": "bernoulli" if colours == 1 else gaussian,
        "num_mixtures": mixtures,
        "num_x_bits": fields.whole("num_x_bits"),
        "border": 2 if colours == 1 else 0,  # 28×28 pixels padded to 32×32
        "encoder_channels": fields.whole("num_channels_enc"),
        "decoder_channels": fields.whole("num_channels_dec"),
        "num_blocks": blocks,
        "num_preprocess_cells": fields.whole("num_preprocess_cells"),
        "num_postprocess_cells": fields.whole("num_postprocess_cells"),
        "groups_per_scale": groups_per_scale(fields),
        "latent_channels": fields.whole("num_latent_per_group"),
        "encoder_cells": fields.whole("num_cell_per_cond_enc"),
        "decoder_cells": fields.whole("num_cell_per_cond_dec"),
        "num_flows": fields.whole("num_nf"),
        "squeeze_excitation": fields.flag("use_se"),
        "residual_posterior": fields.flag("res_dist"),
        "architecture": known_architecture(fields.text("arch_instance")),
    }


def known_architecture(name: str) -> str:
    """The name of an architecture, if there is such a one.

    Raises:
        DataError: If not.
    """
    try:
        operators_of(name)
    except UsageError as error:
        raise DataError(f"its args say arch_instance={name!r}: {error}") from error
    return name


def stage_arguments(args: Namespace) -> dict[str, Any]:
    """The arguments of `VAEStage` that a file's `args` stand for: how it was trained."""
    fields = Fields(args)
    final = fields.real("weight_decay_norm")
    annealed = fields.flag("weight_decay_norm_anneal")
    return {
        "lr": fields.real("learning_rate"),
        "lr_final": fields.real("learning_rate_min"),
        "warmup_portion": fields.real("warmup_epochs") / max(1, fields.whole("epochs")),
        "optimizer": "adamax",
        "optimizer_eps": 1e-3,
        "weight_decay": fields.real("weight_decay"),
        "kl_anneal_portion": fields.real("kl_anneal_portion"),
        "kl_const_portion": fields.real("kl_const_portion"),
        "kl_const_coeff": fields.real("kl_const_coeff"),
        "kl_balance": True,
        "penalty_weight": final,
        "penalty_weight_init": fields.real("weight_decay_norm_init") if annealed else None,
    }


def operator_lists(architecture: str) -> dict[str, list[str]]:
    """The table of an architecture as a file's `arch_instance` writes it."""
    encoder, decoder, preprocess, postprocess = map(list, operators_of(architecture))
    return {
        "normal_enc": encoder,
        "down_enc": encoder,
        "normal_dec": decoder,
        "up_dec": decoder,
        "normal_pre": preprocess,
        "down_pre": preprocess,
        "normal_post": postprocess,
        "up_post": postprocess,
    }


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
