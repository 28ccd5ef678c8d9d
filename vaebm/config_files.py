"""Configs by name: a path as given, else one of the configs that ship with the package."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from vaebm.errors import UsageError
from vaebm.registry import unknown_name


def shipped_configs() -> dict[str, Path]:
    """Path of each shipped config by file name."""
    # An editable install maps the package vaebm.configs to the folder configs/ of the repository.
    folder = Path(str(files("vaebm.configs")))
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def shipped_sweeps() -> list[Path]:
    """The shipped sweeps of Weights & Biases."""
    return sorted(Path(str(files("vaebm.configs"))).glob("sweeps/*.yaml"))


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


class FloatLoader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as jsonargparse does; plain YAML 1.1 takes it for text."""


FloatLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def without_model(name: str) -> str:
    """The value of ``--config`` where a checkpoint brings the model.

    A config of a whole training would replace the checkpoint's sampler and space by its own: of
    one that names the model's class only the rest counts. One that changes single settings of the
    model stays as it is.

    Args:
        name: As in `find_config`.

    Returns:
        A path, or YAML text.
    """
    path = find_config(name)
    try:
        config = yaml.load(Path(path).read_text(), FloatLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError):
        return path  # jsonargparse says what is wrong with it
    if not isinstance(config, dict):
        return path
    model = config.get("model")
    whole = isinstance(model, str) or (isinstance(model, dict) and "class_path" in model)
    # What the training went on from is not what is evaluated.
    unwanted = {"ckpt_path", "model"} if whole else {"ckpt_path"}
    rest = {key: value for key, value in config.items() if key not in unwanted}
    return path if rest == config else str(yaml.safe_dump(rest))


def vae_of_sibling(name: str) -> dict[str, Any] | None:
    """The VAE that the config of stage 1 beside a config of stage 2 makes.

    ``cifar10_ebm_data.yaml`` belongs to ``cifar10_vae.yaml``: "ebm" becomes "vae", and what follows
    is dropped word by word until there is such a file.

    Args:
        name: As in `find_config`, a config of stage 2.

    Returns:
        ``{class_path, init_args}``, or None if there is no such config or it makes none.
    """
    path = Path(find_config(name))
    words = path.stem.replace("_ebm", "_vae").split("_")
    for count in range(len(words), 0, -1):
        sibling = path.with_name("_".join(words[:count]) + path.suffix)
        if sibling != path and sibling.is_file():
            config: Any = yaml.load(sibling.read_text(), FloatLoader)
            for key in ("model", "init_args", "vae"):
                config = config.get(key) if isinstance(config, dict) else None
            return config if isinstance(config, dict) else None
    return None


class ConfigByName(ActionConfigFile):
    """The ``--config`` option of `fit`."""

    resolve = staticmethod(find_config)

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Apply the config that the option names."""
        self.apply_config(parser, cfg, self.dest, values)

    @classmethod
    def apply_config(cls, parser: Any, cfg: Any, dest: Any, value: Any) -> None:
        """Resolve the name, then do as jsonargparse does; an error names the file."""
        config = cls.resolve(str(value))
        try:
            ActionConfigFile.apply_config(parser, cfg, dest, config)
        except (TypeError, ValueError) as error:
            raise UsageError(f"config {value}: {error}") from error


class EvaluationConfig(ConfigByName):
    """The ``--config`` option where a checkpoint is evaluated."""

    resolve = staticmethod(without_model)
