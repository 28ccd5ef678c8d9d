"""Reading checkpoints of either stage: always ``weights_only``, always a one-line error."""

import pickle
from pathlib import Path
from typing import Any

import torch

from vaebm.configurable import from_config
from vaebm.errors import DataError, UsageError
from vaebm.models.base import VAE


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a Lightning checkpoint of this package into CPU memory.

    Args:
        path: A ``.ckpt`` file of stage 1 or stage 2.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is damaged, holds more than plain data, or is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist" + _neighbours(path))
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else "no content"
        raise DataError(
            f"checkpoint {path} cannot be read, it is damaged or foreign: {reason}"
        ) from error
    if not (isinstance(checkpoint, dict) and {"state_dict", "hyper_parameters"} <= set(checkpoint)):
        raise DataError(f"{path} is no checkpoint of vaebm: state_dict or hyper_parameters missing")
    return checkpoint


def _neighbours(path: Path) -> str:
    found = sorted(path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
    return f"; that folder has {', '.join(p.name for p in found)}" if found else ""


def vae_config(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """``{class_path, init_args}`` of the VAE in a checkpoint of either stage, if it has one."""
    config = checkpoint["hyper_parameters"].get("vae")
    return config if isinstance(config, dict) and "class_path" in config else None


def load_vae(path: str | Path) -> VAE:
    """Rebuild the VAE of a checkpoint, architecture and weights.

    Args:
        path: A checkpoint of stage 1, or one of stage 2, which carries its VAE.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is damaged or holds no VAE.
    """
    checkpoint = read_checkpoint(path)
    config = vae_config(checkpoint)
    if config is None:
        raise DataError(f"{path} holds no VAE; give a checkpoint that `vaebm fit` wrote")
    vae = from_config(config, VAE)
    weights = {
        name.removeprefix("vae."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("vae.")
    }
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"weights in {path} do not fit its VAE: {_first_lines(error)}") from error
    return vae


def _first_lines(error: RuntimeError) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[1:3])
