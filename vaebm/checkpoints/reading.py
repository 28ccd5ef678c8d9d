"""Reading checkpoints of either stage: always ``weights_only``, always a one-line error."""

import pickle
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from vaebm.checkpoints.safetensors_file import is_safetensors, read_safetensors
from vaebm.configurable import Configurable, find_class, from_config
from vaebm.errors import DataError, UsageError
from vaebm.models.base import VAE


def load_data(path: str | Path, allowed: Sequence[type] = ()) -> Any:
    """Load a file of tensors and plain data into CPU memory; nothing in it is executed.

    Args:
        path: A file that ``torch.save`` wrote, of any version.
        allowed: Types that it may hold besides.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is damaged or holds more than plain data.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"checkpoint {path} is a folder, but a file is due" + _neighbours(path))
    if not path.is_file():
        raise UsageError(f"checkpoint {path} does not exist" + _neighbours(path))
    if is_safetensors(path):
        return read_safetensors(path)
    mmap = zipfile.is_zipfile(path)  # files of torch before 1.6 cannot be mapped
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except pickle.UnpicklingError as error:  # torch's own text advises to load it nevertheless
        raise DataError(
            f"checkpoint {path} is refused: it is damaged or holds more than plain data, "
            "and to load that could run code"
        ) from error
    except OSError as error:
        raise DataError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # what a damaged file makes of the reader has no end
        raise DataError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is damaged, cut off or "
            "no checkpoint"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a Lightning checkpoint of this package into CPU memory.

    Args:
        path: A ``.ckpt`` file of stage 1 or stage 2, or what `vaebm export` made of one.

    Raises:
        UsageError: If there is no such file.
        DataError: If the file is damaged, holds more than plain data, is of another kind or names
            classes that are not there or none of ours.
    """
    return _checked(load_data(path, [Namespace]), Path(path))


def _checked(content: Any, path: Path) -> dict[str, Any]:
    """The content of a file, if it is a checkpoint whose classes are all there."""
    parts: dict[str, Any] = content if isinstance(content, dict) else {}
    if not all(isinstance(parts.get(key), dict) for key in ("state_dict", "hyper_parameters")):
        published = isinstance(parts.get("args"), Namespace) or isinstance(parts.get("model"), dict)
        hint = "; `vaebm convert` makes one of it" if published else ""
        raise DataError(
            f"{path} is no checkpoint of vaebm: state_dict or hyper_parameters missing{hint}"
        )
    try:
        for class_path in _class_paths(parts["hyper_parameters"]):
            find_class(class_path, Configurable)
    except DataError as error:
        raise DataError(f"checkpoint {path} cannot be used: {error}") from error
    return parts


def _class_paths(value: Any) -> Iterator[str]:
    """All classes that hyper-parameters name, at any depth."""
    if isinstance(value, dict):
        yield from (str(value[key]) for key in ("_class_path", "class_path") if key in value)
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _class_paths(item)


def _neighbours(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    found = sorted(folder.glob("*.ckpt")) if folder.is_dir() else []
    return f"; that folder has {', '.join(p.name for p in found)}" if found else ""


def vae_config(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """``{class_path, init_args}`` of the VAE in a checkpoint of either stage, if it has one."""
    config = checkpoint["hyper_parameters"].get("vae")
    return config if isinstance(config, dict) and "class_path" in config else None


def load_vae(path: str | Path) -> VAE:
    """Rebuild the VAE of a checkpoint, architecture and weights, in evaluation mode.

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
    return vae.eval()


def _first_lines(error: RuntimeError) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[1:3])
