"""Weights of published files, checked before they are copied into a model."""

from typing import Any

import torch
from torch import Tensor, nn

from vaebm.errors import DataError


def plain_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file, if they are weights.

    Raises:
        DataError: If an entry is no plain tensor of real numbers.
    """
    for key, value in state_dict.items():
        if not (isinstance(key, str) and is_plain(value)):
            raise DataError(f"it holds {key}, which is no plain tensor")
    return state_dict


def is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of real numbers."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_quantized or value.is_complex() or value.is_meta)


def check_weights(model: nn.Module, names: dict[str, str], weights: dict[str, Tensor]) -> None:
    """Compare the names and shapes of published weights with those of a model.

    Args:
        model: The model.
        names: Published names by ours, of all that is due.
        weights: The weights of a file by published names.

    Raises:
        DataError: If a key is missing or left over, or an entry has another shape.
    """
    missing, left_over = set(names.values()) - set(weights), set(weights) - set(names.values())
    problems = [
        f"{title} {', '.join(sorted(keys)[:5])}" + (f" and {len(keys) - 5} more" * (len(keys) > 5))
        for title, keys in (("missing keys:", missing), ("left-over keys:", left_over))
        if keys
    ]
    if problems:
        raise DataError("; ".join(problems))
    own = model.state_dict()
    for ours, theirs in names.items():
        if weights[theirs].shape != own[ours].shape:
            shapes = tuple(weights[theirs].shape), tuple(own[ours].shape)
            raise DataError(f"{theirs} is of shape {shapes[0]}, but {shapes[1]} is due")


def load_weights(model: nn.Module, names: dict[str, str], weights: dict[str, Tensor]) -> None:
    """Copy published weights into a model whose names and shapes they have.

    See `check_weights` for the arguments; double precision is kept.

    Raises:
        DataError: If one holds NaN or infinity.
    """
    double = any(weight.dtype == torch.float64 for weight in weights.values())
    own = model.to(torch.float64 if double else torch.float32).state_dict()
    for ours, theirs in names.items():
        own[ours].copy_(weights[theirs])  # a copy: theirs may be views of one large storage
        if not own[ours].isfinite().all():
            raise DataError(f"{theirs} holds NaN or infinity")
