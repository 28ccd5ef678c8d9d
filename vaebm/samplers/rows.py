"""Rows of nested tuples of tensors, such as chains: take some, put them back, join parts."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def over_tensors(function: Callable[..., Any], trees: Sequence[Any]) -> Any:
    """Apply a function to corresponding tensors of trees of the same form.

    None in any of them gives None; anything else that is neither tuple nor tensor is kept.
    """
    first = trees[0]
    if any(tree is None for tree in trees):
        return None
    if isinstance(first, Tensor):
        return function(*trees)
    if not isinstance(first, tuple):
        return first
    parts = [over_tensors(function, fields) for fields in zip(*trees, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def take(tree: Any, rows: Tensor) -> Any:
    """The rows of every tensor."""
    return over_tensors(lambda tensor: tensor[rows], [tree])


def put(tree: Any, rows: Tensor, part: Any) -> Any:
    """The tree with some rows replaced by those of `part`."""
    return over_tensors(lambda tensor, new: tensor.index_copy(0, rows, new), [tree, part])


def join(parts: Sequence[Any], order: Tensor) -> Any:
    """All parts' rows one after the other, then in the given order; unknown in one is None."""
    return over_tensors(lambda *tensors: torch.cat(tensors)[order], parts)
