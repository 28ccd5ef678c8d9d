"""Checkpoints as safetensors: weights and settings alone, in a format that cannot hold code."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vaebm.checkpoints.atomic import whole_file
from vaebm.errors import DataError

SETTINGS = ("hyper_parameters", "datamodule_hyper_parameters", "global_step", "epoch", "metrics")


def is_safetensors(path: object) -> bool:
    """Whether a file's name is that of safetensors."""
    return str(path).endswith(".safetensors")


def write_safetensors(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write weights, those of weight averaging if there is such, and settings of a checkpoint.

    Tensors have the names of the checkpoint's ``state_dict``; what rebuilds the model is JSON in
    the file's metadata.

    Args:
        path: The file.
        checkpoint: Content of a checkpoint.
    """
    # A copy of each: tensors that share memory are refused.
    weights = {
        k: v.detach().cpu().contiguous().clone() for k, v in checkpoint["state_dict"].items()
    }
    metadata = {key: json.dumps(checkpoint[key]) for key in SETTINGS if key in checkpoint}
    with whole_file(path) as file:
        file.write(save(weights, {"format": "pt", **metadata}))


def read_safetensors(path: Path) -> dict[str, Any]:
    """Read such a file.

    Args:
        path: The file.

    Returns:
        A checkpoint as Lightning has it, without anything to resume a training from.

    Raises:
        DataError: If the file is damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        settings = {key: json.loads(metadata[key]) for key in SETTINGS if key in metadata}
    except (SafetensorError, ValueError) as error:
        raise DataError(f"checkpoint {path} cannot be read: it is damaged or cut off") from error
    start = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": version("lightning")}
    return {**start, "state_dict": weights, **settings}
