"""Files in the published format: the recorded ones, and random ones of any architecture."""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.official_nvae import OFFICIAL, TABLES
from vaebm.models import NVAE
from vaebm.official.arguments import model_arguments
from vaebm.official.names import official_names

FIXTURES = Path(__file__).parents[2] / "shared/fixtures"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the recorded outputs of the published code are not here"
)

SMALL = {
    "dataset": "cifar10",
    "num_channels_enc": 8,
    "num_channels_dec": 8,
    "num_preprocess_blocks": 1,
    "num_preprocess_cells": 2,
    "num_postprocess_blocks": 1,
    "num_postprocess_cells": 2,
    "num_latent_scales": 1,
    "num_groups_per_scale": 2,
    "ada_groups": False,
    "min_groups_per_scale": 1,
    "num_latent_per_group": 3,
    "num_cell_per_cond_enc": 1,
    "num_cell_per_cond_dec": 1,
    "num_nf": 0,
    "num_mixture_dec": 1,
    "use_se": True,
    "res_dist": True,
    "arch_instance": "res_mbconv",
    "num_x_bits": 8,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "learning_rate_min": 1e-4,
    "weight_decay": 3e-4,
    "weight_decay_norm": 1e-1,
    "weight_decay_norm_init": 10.0,
    "weight_decay_norm_anneal": False,
    "epochs": 400,
    "warmup_epochs": 5,
    "fast_adamax": True,
    "kl_anneal_portion": 0.3,
    "kl_const_portion": 1e-4,
    "kl_const_coeff": 1e-4,
    "seed": 1,
    "num_total_iter": 1000,
    "distributed": True,
}


def load(name: str) -> Any:
    """A recorded file."""
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(FIXTURES / name, weights_only=True)


def arguments(**changes: Any) -> Namespace:
    """The published command line of a small model; None leaves a field out."""
    fields = {**SMALL, **changes}
    return Namespace(**{name: value for name, value in fields.items() if value is not None})


def random_weights(args: Namespace, seed: int = 0) -> dict[str, Tensor]:
    """Weights under published names, all of them random enough to show in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    vae = NVAE(**model_arguments(args))
    own, weights = vae.state_dict(), OrderedDict()
    for ours, theirs in official_names(vae).items():
        value = own[ours].clone()
        noise = torch.randn(value.shape, generator=generator)
        if theirs.endswith("running_var"):
            value = value * (0.3 * noise).exp()
        elif value.is_floating_point():
            value = value + 0.1 * noise * (3 if value.ndim == 1 else 1)
        weights[theirs] = value
        plain = theirs.endswith(".weight") and value.ndim == 4
        if (
            plain
            and theirs[: -len("weight")] + "log_weight_norm" not in official_names(vae).values()
        ):
            weights[f"{theirs}_normalized"] = weights[theirs]
    return weights


def content(args: Namespace, **changes: Any) -> dict[str, Any]:
    """What a published file of some arguments holds."""
    kinds = ("enc", "dec", "pre", "post")
    prefixes = {"enc": "down", "dec": "up", "pre": "down", "post": "up"}
    table = dict(zip(kinds, TABLES.get(args.arch_instance, TABLES["res_mbconv"]), strict=True))
    listed = {
        f"{prefix}_{kind}": [OFFICIAL[op] for op in table[kind].split()]
        for kind in kinds
        for prefix in ("normal", prefixes[kind])
    }
    whole = {
        "epoch": 3,
        "state_dict": random_weights(args),
        "optimizer": {},
        "global_step": 7,
        "args": args,
        "arch_instance": {**listed, "ar_nn": [""]},
        "scheduler": {},
        "grad_scalar": {},
    }
    return {**whole, **changes}


def write(folder: Path, whole: dict[str, Any], **options: Any) -> Path:
    """Write a published file."""
    path = folder / "checkpoint.pt"
    torch.save(whole, path, **options)
    return path
