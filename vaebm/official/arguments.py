"""The command line in published NVAE files, as arguments of ours."""

import re
from argparse import Namespace
from typing import Any

from vaebm.errors import DataError, UsageError
from vaebm.models.cells import operators_of

# Fields that files of earlier versions of the code lack, with what that code did.
EARLIER: dict[str, Any] = {
    "ada_groups": False,
    "min_groups_per_scale": 1,
    "num_mixture_dec": 10,
    "num_nf": 0,
    "num_x_bits": 8,
    "res_dist": False,
    "use_se": False,
}

# How a model was trained does not change it: what a file does not say has its default.
TRAINING: dict[str, Any] = {
    "learning_rate": 1e-2,
    "learning_rate_min": 1e-4,
    "weight_decay": 3e-4,
    "weight_decay_norm": 0.0,
    "weight_decay_norm_init": 10.0,
    "weight_decay_norm_anneal": False,
    "epochs": 200,
    "warmup_epochs": 5,
    "kl_anneal_portion": 0.3,
    "kl_const_portion": 1e-4,
    "kl_const_coeff": 1e-4,
}

MOST_HALVINGS = 16  # of an image of any size


class Fields:
    """Reads the command line that a file was trained with, and says which field is wrong.

    Args:
        args: The file's `args`.
    """

    def __init__(self, args: Namespace) -> None:
        given = {name: value for name, value in vars(args).items() if value is not None}
        self.values = {**EARLIER, **TRAINING, **given}

    def get(self, name: str, *kinds: type) -> Any:
        """The value of a field.

        Raises:
            DataError: If there is none, or one of another kind.
        """
        if name not in self.values:
            raise DataError(f"its args lack {name}, without which the model is not known")
        value = self.values[name]
        if type(value) not in kinds:
            raise DataError(f"its args say {name}={value!r}, but {kinds[0].__name__} is due")
        return value

    def whole(self, name: str) -> int:
        """A whole number."""
        return int(self.get(name, int))

    def real(self, name: str) -> float:
        """A number."""
        return float(self.get(name, float, int))

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
    scales = fields.whole("num_latent_scales")
    if not 1 <= scales <= MOST_HALVINGS:
        raise DataError(
            f"its args say num_latent_scales={scales}, but 1 to {MOST_HALVINGS} are due"
        )
    for _ in range(scales):
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


def number_of_cells(arguments: dict[str, Any]) -> int:
    """Cells of the model that `model_arguments` describes, which bounds the time to build it."""
    groups = sum(arguments["groups_per_scale"])
    per_group = arguments["encoder_cells"] + arguments["decoder_cells"] + 2 * arguments["num_flows"]
    per_block = arguments["num_preprocess_cells"] + arguments["num_postprocess_cells"]
    return int(groups * per_group + arguments["num_blocks"] * per_block)


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
