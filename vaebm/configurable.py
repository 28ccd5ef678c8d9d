"""Objects that know the arguments they were made with, so that a checkpoint can hold them as data.

A checkpoint must load with ``weights_only=True`` and rebuild the model from one file. The command
line stores ``{class_path, init_args}`` for every object it makes; an object made in Python would be
pickled alive instead. `Configurable` closes that gap: both leave the same plain data.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any, Self, TypeVar

from vaebm.errors import DataError

T = TypeVar("T")

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Configurable:
    """Base class that records the constructor's arguments as `init_args`."""

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments before ``__init__`` sees them."""
        self = super().__new__(cls)
        # bind_partial: copy and unpickling call __new__ without arguments and restore them later.
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        # A class without its own __init__ has object's or nn.Module's, of (*args, **kwargs).
        variadic = {p.name for p in bound.signature.parameters.values() if p.kind in VARIADIC}
        bound.apply_defaults()
        init_args = {
            name: value
            for name, value in bound.arguments.items()
            if name != "self" and (name not in variadic or value)
        }
        object.__setattr__(self, "init_args", init_args)
        return self


def class_path(cls: type) -> str:
    """Import path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def to_config(value: Any) -> Any:
    """Turn an object and all it was made of into plain data.

    Args:
        value: A `Configurable`, a container or a plain value.

    Returns:
        ``{"class_path": ..., "init_args": ...}`` for an object, plain data otherwise.

    Raises:
        TypeError: If a value inside cannot be written as data.
    """
    if isinstance(value, Configurable):
        init_args = {name: to_config(arg) for name, arg in value.init_args.items()}
        return {"class_path": class_path(type(value)), "init_args": init_args}
    if isinstance(value, dict):
        return {str(key): to_config(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_config(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"a {type(value).__name__} cannot be stored in a checkpoint as data; derive its class from "
        "one of vaebm's contracts (Sampler, Space, VAE, Energy)"
    )


def from_config(config: dict[str, Any], base: type[T]) -> T:
    """Build an object from what `to_config` gave.

    Args:
        config: ``{"class_path": ..., "init_args": ...}``.
        base: Class that the object must derive from; nothing else is ever called.

    Raises:
        DataError: If the class cannot be imported or is none of `base`.
    """
    init_args = {name: _nested(value) for name, value in config.get("init_args", {}).items()}
    return find_class(str(config.get("class_path")), base)(**init_args)


def find_class(path: str, base: type[T]) -> type[T]:
    """Import a class.

    Args:
        path: Its import path.
        base: Class that it must derive from.

    Raises:
        DataError: If the class cannot be imported or is none of `base`.
    """
    module, _, name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"class {path} cannot be imported ({error}); is its package installed?"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise DataError(f"{path} is no {base.__name__}")
    return cls


def _nested(value: Any) -> Any:
    if isinstance(value, dict) and "class_path" in value:
        return from_config(value, Configurable)
    if isinstance(value, list):
        return [_nested(item) for item in value]
    return value
