"""Published NVAE checkpoints as ours."""

import os
import re
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from torch import Tensor

from vaebm.checkpoint import load_data
from vaebm.errors import DataError, UsageError
from vaebm.models.nvae import NVAE
from vaebm.official_arguments import (
    model_arguments,
    number_of_cells,
    operator_lists,
    stage_arguments,
)
from vaebm.official_names import official_names
from vaebm.vae_stage import VAEStage


def load_nvae(path: str | Path) -> NVAE:
    """Load a published NVAE checkpoint, architecture and weights.

    Args:
        path: A file that NVAE's training wrote, e.g. ``checkpoint.pt``.

    Returns:
        The model in evaluation mode, in CPU memory; call ``.train()`` to train it further.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged, of another kind, or does not hold exactly the weights of the
            architecture that it names.
    """
    return nvae_of(read_official(path), path)


def convert(checkpoint: str | Path, output: str | Path) -> None:
    """Write a published NVAE checkpoint as a stage-1 checkpoint of this package.

    The weights, the architecture and the settings of the training are taken over, the state of the
    optimiser is not: the result is for `vaebm sample`, `vaebm test` and stage 2.

    Args:
        checkpoint: A file that NVAE's training wrote, e.g. ``checkpoint.pt``.
        output: File to write.

    Raises:
        UsageError: If `output` cannot be written or is there already.
        DataError: See `load_nvae`.
    """
    output = Path(output)
    check_output(output)
    content = read_official(checkpoint)
    vae = nvae_of(content, checkpoint)
    try:
        stage = VAEStage(vae, **stage_arguments(content["args"]))
    except ValueError as error:
        raise DataError(f"checkpoint {checkpoint} cannot be converted: {error}") from error
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=".convert-") as folder:
        part = Path(folder) / output.name  # so that an interruption leaves no half of a file
        # The environment of a cluster is of no concern: one process writes one file.
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_model_summary=False,
        )
        trainer.strategy.connect(stage)
        trainer.save_checkpoint(part, weights_only=True)
        os.replace(part, output)


def check_output(output: Path) -> None:
    """Refuse a file that cannot be written, before any work is done.

    Raises:
        UsageError: If it is there already or its folder cannot be written to.
    """
    if output.exists():
        raise UsageError(f"--output {output} is there already; remove it or choose another name")
    folder = next(path for path in output.absolute().parents if path.exists())
    if not folder.is_dir():
        raise UsageError(f"--output {output}: {folder} is a file, but a folder is due")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--output {output}: the folder {folder} cannot be written to")


def read_official(path: str | Path) -> dict[str, Any]:
    """The content of a published NVAE checkpoint.

    Raises:
        UsageError: If there is no such file.
        DataError: If it is damaged or of another kind.
    """
    content = load_data(path, [Namespace])
    parts: dict[str, Any] = content if isinstance(content, dict) else {}
    if "hyper_parameters" in parts:
        raise DataError(f"{path} is a checkpoint of vaebm already: nothing to convert")
    if {"model", "optimizer"} <= set(parts):
        raise DataError(
            f"{path} looks like an energy network of the VAEBM release; this version of vaebm "
            "converts NVAE checkpoints"
        )
    if not (isinstance(parts.get("args"), Namespace) and isinstance(parts.get("state_dict"), dict)):
        raise DataError(f"{path} is no published NVAE checkpoint: args or state_dict missing")
    return parts


def nvae_of(content: dict[str, Any], path: str | Path) -> NVAE:
    """Build the model of a published checkpoint's content; `path` is for messages."""
    try:
        arguments = model_arguments(content["args"])
        check_operators(content.get("arch_instance"), arguments["architecture"])
        weights = without_duplicates(content["state_dict"])
        if number_of_cells(arguments) > len(weights):
            raise DataError("its args describe more cells than it has weights")
        with torch.device("meta"):  # a wrong file costs neither time nor memory
            check_weights(NVAE(**arguments), weights)
        vae = NVAE(**arguments)
        load_weights(vae, weights)
    except ValueError as error:  # also what NVAE says of sizes that do not fit together
        raise DataError(f"checkpoint {path} cannot be converted: {error}") from error
    return vae.eval()


def check_operators(listed: Any, architecture: str) -> None:
    """Compare the operators that a file lists with those of the architecture it names."""
    if not isinstance(listed, dict):
        return
    for kind, operators in operator_lists(architecture).items():
        if kind in listed and not same(listed[kind], operators):
            raise DataError(
                f"its arch_instance says {kind}={listed[kind]}, but {architecture} has {operators}"
            )


def same(listed: Any, operators: list[str]) -> bool:
    """Whether a list or tuple names these operators."""
    return isinstance(listed, list | tuple) and list(listed) == operators


def check_weights(vae: NVAE, weights: dict[str, Tensor]) -> None:
    """Compare the names and shapes of published weights with those of a model.

    Raises:
        DataError: If a key is missing or left over, or an entry has another shape.
    """
    names = official_names(vae)
    missing, left_over = set(names.values()) - set(weights), set(weights) - set(names.values())
    problems = [
        f"{title} {', '.join(sorted(keys)[:5])}" + (f" and {len(keys) - 5} more" * (len(keys) > 5))
        for title, keys in (("missing keys:", missing), ("left-over keys:", left_over))
        if keys
    ]
    if problems:
        raise DataError("; ".join(problems))
    own = vae.state_dict()
    for ours, theirs in names.items():
        if weights[theirs].shape != own[ours].shape:
            shapes = tuple(weights[theirs].shape), tuple(own[ours].shape)
            raise DataError(f"{theirs} is of shape {shapes[0]}, but {shapes[1]} is due")


def load_weights(vae: NVAE, weights: dict[str, Tensor]) -> None:
    """Copy published weights into a model whose names and shapes they have.

    Raises:
        DataError: If one holds NaN or infinity.
    """
    vae.to(torch.promote_types(weights["prior_ftr0"].dtype, torch.float32))
    own = vae.state_dict()
    for ours, theirs in official_names(vae).items():
        if not weights[theirs].isfinite().all():
            raise DataError(f"{theirs} holds NaN or infinity")
        own[ours].copy_(weights[theirs])  # a copy: theirs may be views of one large storage


def without_duplicates(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file under one name each.

    Convolutions whose weight is not normalised stand in newer files twice, as `weight` and as
    `weight_normalized`.

    Raises:
        DataError: If the two differ, or an entry is no plain tensor of real numbers.
    """
    weights = {}
    for key, value in state_dict.items():
        if not (isinstance(key, str) and is_plain(value)):
            raise DataError(f"its state_dict holds {key}, which is no plain tensor")
        base, duplicate, _ = key.partition("_normalized")
        if not duplicate:
            # The last layer of a flow cell stands beside its other layers or below them.
            weights[re.sub(r"^(nf_cells\.\d+\.cell\d)\.conv\.mu\.", r"\1.mu.", key)] = value
        elif base not in state_dict or not value.equal(state_dict[base]):
            raise DataError(f"{key} is not the same as {base}")
    return weights


def is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_quantized or value.is_complex() or value.is_meta)
