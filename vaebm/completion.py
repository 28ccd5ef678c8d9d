"""Scripts that complete commands, options and names in a shell."""

import inspect
import logging
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import shtab
from lightning.pytorch.cli import LightningArgumentParser

from vaebm.classifier_stage import ClassifierStage
from vaebm.config_files import shipped_configs
from vaebm.datamodules import datamodules
from vaebm.ebm_stage import EBMStage
from vaebm.lightning_cli import VAEBMCLI, run
from vaebm.models import models
from vaebm.models.base import VAE, Energy
from vaebm.registry import Registry
from vaebm.samplers import ReplayBuffer, samplers
from vaebm.spaces import spaces
from vaebm.vae_stage import VAEStage

STAGES: dict[str, type] = {cls.__name__: cls for cls in (VAEStage, EBMStage, ClassifierStage)}
FILES = ("checkpoint", "ckpt_path", "vae_checkpoint", "output", "data.root", "weights")


class Parsers(VAEBMCLI):
    """The parsers of all subcommands; nothing is parsed."""

    found: Mapping[str, LightningArgumentParser]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> NoReturn:
        """Keep the parsers and end."""
        type(self).found = self._subcommand_parsers
        raise SystemExit(0)


def script(shell: str, commands: Mapping[str, str]) -> str:
    """The script for a shell.

    Options of classes are those of all classes that the place can take, plug-ins included: which
    one it is may stand in a config.

    Args:
        shell: Name of the shell, as shtab has it.
        commands: What each command does.
    """
    logging.disable(logging.INFO)
    try:
        run(["fit"], Parsers)
    except SystemExit:
        logging.disable(logging.NOTSET)
    root = ArgumentParser("vaebm")
    root.add_argument("--version", action="store_true", help="show the version")
    root.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = root.add_subparsers()
    for name, purpose in commands.items():
        parser = subparsers.add_parser(name, help=purpose)
        for option, choices in options_of(name).items():
            argument = parser.add_argument(option, choices=choices, help="")
            if option.removeprefix("--").removeprefix("model.") in FILES:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    text = str(shtab.complete(root, shell))
    # Files, where there is nothing else: paths of configs, folders of runs.
    return text.replace("complete -o bashdefault ", "complete -o bashdefault -o default ")


def options_of(command: str) -> dict[str, list[str] | None]:
    """Options of a command, and the values of those that take one of some names."""
    own: dict[str, dict[str, list[str] | None]] = {
        "convert": {"checkpoint": None, "--output": None, "--vae_checkpoint": None},
        "export": {"checkpoint": None, "--output": None},
        "report": {"checkpoint": None, "--output": None},
        "completion": {"shell": list(shtab.SUPPORTED_SHELLS)},
        "list": {},
    }
    if command in own:
        return own[command]
    found: dict[str, list[str] | None] = {}
    for action in Parsers.found[command]._actions:
        longest = max(action.option_strings, key=len, default="")
        if longest.startswith("--") and longest != "--help":
            found[longest] = [str(c) for c in action.choices] if action.choices else None
    found["--config"] = found["-c"] = list(shipped_configs())
    return {**found, **class_options("--model", STAGES), **nested_options()}


def nested_options() -> dict[str, list[str] | None]:
    """Options of the classes within the stages, and of the data."""
    places: dict[str, Mapping[str, type]] = {
        "--data": members(datamodules),
        "--model.vae": members(models, VAE),
        "--model.energy": members(models, Energy),
        "--model.sampler": members(samplers),
        "--model.space": members(spaces),
        "--model.replay": {"ReplayBuffer": ReplayBuffer},
    }
    found: dict[str, list[str] | None] = {}
    for place, classes in places.items():
        found |= class_options(place, classes)
    return found


def members(registry: Registry[Any], base: type = object) -> dict[str, type]:
    """The classes of a registry that derive from a class."""
    classes = {name: registry[name] for name in registry.names()}
    return {name: cls for name, cls in classes.items() if issubclass(cls, base)}


def class_options(place: str, classes: Mapping[str, type]) -> dict[str, list[str] | None]:
    """The option that takes one of some classes, and those of their arguments."""
    arguments: Iterable[str] = sorted(
        {name for cls in classes.values() for name in inspect.signature(cls).parameters}
        - {"args", "kwargs"}
    )
    return {place: sorted(classes), **{f"{place}.{name}": None for name in arguments}}
