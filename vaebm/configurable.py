"""Objects that know the arguments they were made with, so that a checkpoint can hold them as data.

A checkpoint must load with ``weights_only=True`` and rebuild the model from one file. The command
line stores ``{class_path, init_args}`` for every object it makes; an object made in Python would be
pickled alive instead. `Configurable` closes that gap: both leave the same plain data.
"""

import inspect
from pathlib import Path
from typing import Any, Self


class Configurable:
    """Base class that records the constructor's arguments as `init_args`."""

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments before ``__init__`` sees them."""
        self = super().__new__(cls)
        # bind_partial: copy and unpickling call __new__ without arguments and restore them later.
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        init_args = {name: value for name, value in bound.arguments.items() if name != "self"}
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
