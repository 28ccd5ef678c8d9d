"""Configs by name: a path as given, else one of the configs that ship with the package."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from vaebm.errors import UsageError
from vaebm.registry import unknown_name


def shipped_configs() -> dict[str, Path]:
    """Path of each shipped config by file name."""
    # An editable install maps the package vaebm.configs to the folder configs/ of the repository.
    folder = Path(str(files("vaebm.configs")))
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str) -> str:
    """Resolve the value of ``--config``.

    Args:
        name: A path, or the name of a shipped config with or without ``.yaml``.

    Raises:
        TypeError: If there is none; jsonargparse turns it into a usage error.
    """
    if Path(name).is_file():
        return name
    shipped = shipped_configs()
    for candidate in (name, f"{name}.yaml"):
        if candidate in shipped:
            return str(shipped[candidate])
    raise TypeError(unknown_name(name, shipped, "--config (no such file either)"))


class ConfigByName(ActionConfigFile):
    """The ``--config`` option of every subcommand."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Apply the config that the option names."""
        self.apply_config(parser, cfg, self.dest, values)

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: Any, value: Any) -> None:
        """Resolve the name, then do as jsonargparse does; an error names the file."""
        path = find_config(str(value))
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, path)
        except (TypeError, ValueError) as error:
            raise UsageError(f"config {value}: {error}") from error
