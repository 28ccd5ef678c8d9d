"""LightningCLI with configs by name, settings from checkpoints and one-line errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch.cli as lightning_cli
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_info

from vaebm.arguments import checkpoint_of, configs_first, options_of
from vaebm.callbacks.logs import log_config, require_log_folder
from vaebm.callbacks.result_files import MetricsFile, PredictionsFile
from vaebm.checkpoints.last import LAST, agreed, folders_of, last_checkpoint
from vaebm.checkpoints.reading import read_checkpoint, vae_config
from vaebm.classifier_stage import ClassifierStage
from vaebm.config_files import ConfigByName, EvaluationConfig, vae_of_sibling
from vaebm.datamodules import datamodules
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError, cause_of
from vaebm.models import models
from vaebm.outputs import free_path
from vaebm.registry import unknown_name
from vaebm.samplers import samplers
from vaebm.spaces import spaces
from vaebm.trainer import VAEBMTrainer
from vaebm.vae_stage import VAEStage

__all__ = ["ClassifierStage", "EBMStage", "VAEStage", "run"]


class Parser(LightningArgumentParser):
    """A parser whose errors are one line for main() to print."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        if ex is not None and cause_of(ex) is not ex:
            raise cause_of(ex)
        raise UsageError(one_line(message, self)) from ex


def one_line(message: str, parser: LightningArgumentParser) -> str:
    """Shorten a parser's message and add the closest match of a mistyped name."""
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    wrong_option = re.search(r"unrecognized arguments: (--[\w.]+)", text)
    wrong_key = re.search(r"Option '([\w.]+)' is not accepted", text)
    wrong_class = re.search(r"dot import path string: (\w+)", text)
    missing = re.search(r"are required: (\w+)\.model$", text)
    if missing:
        return f"vaebm {missing[1]} needs a model: --config NAME of a config, or --model CLASS"
    if wrong_option:
        options = [option for action in parser._actions for option in action.option_strings]
        return f"{text.split(' --')[0]} {wrong_option[1]}{closest(wrong_option[1], options)}"
    if wrong_key:
        names = {action.dest for action in parser._actions if "." not in action.dest} - {"help"}
        return unknown_name(wrong_key[1], names, "the settings here")
    if wrong_class:
        name = wrong_class[1]
        return f"unknown class {name!r}{closest(name, known_classes())}; `vaebm list` shows all"
    return text if len(text) < 400 else f"{text[:400]} ..."


def closest(name: str, known: list[str]) -> str:
    """A hint at the closest known name, or nothing."""
    close = get_close_matches(name, known, n=1)
    return f", did you mean {close[0]}?" if close else ""


def known_classes() -> list[str]:
    """Names that a ``class_path`` can take."""
    stages = ["ClassifierStage", "EBMStage", "VAEStage"]
    return stages + [n for r in (samplers, spaces, models, datamodules) for n in r.names()]


def has_no_vae(model: Namespace | None) -> bool:
    """Whether settings of a stage 2 name no VAE, neither a checkpoint nor an architecture."""
    init_args = model.get("init_args", {}) if model is not None else {}
    return init_args.get("vae") is None and init_args.get("vae_checkpoint") is None


class VAEBMCLI(LightningCLI):
    """The subcommands of `vaebm` that need a Trainer.

    To evaluate or sample, settings come from the checkpoint of ``--ckpt_path`` first, then from
    configs, then from options; each overrides what came before. (Stock LightningCLI lets the
    checkpoint win.) Of the config of a whole training the model does not count.
    """

    def __init__(self, args: list[str], **kwargs: Any) -> None:
        ckpt_path = checkpoint_of(args)
        self.args = args = configs_first(args)
        self.name = next((arg for arg in args if arg in self.subcommands()), "")
        named = ckpt_path is not None and ckpt_path != LAST
        self.checkpoint = read_checkpoint(str(ckpt_path)) if named else None
        self.evaluates = self.checkpoint is not None and self.name not in ("", "fit")
        super().__init__(args=args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that finds configs by name."""
        parser = self.parser_class(allow_abbrev=False, **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=EvaluationConfig if self.evaluates else ConfigByName,
            help="A config file, or the name of a shipped one (`vaebm list`); several overlay.",
        )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keep ``limit_val_batches: 1`` one batch.

        Python shares one object among all unions of the same types, and that of Lightning's options
        has float first: 1 would become 1.0, which means all batches.
        """
        super().add_core_arguments_to_parser(parser)
        for action in parser._actions:
            if action.dest.startswith("trainer.limit_"):
                action._typehint = int | float | None  # type: ignore[attr-defined]

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands, `sample` and `benchmark`."""
        own = {name: {"model", "datamodule", "weights_only"} for name in ("sample", "benchmark")}
        return {**LightningCLI.subcommands(), **own}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with defaults from the checkpoint."""
        parser_of = self._subcommand_parsers
        if self.name in ("sample", "benchmark"):
            parser_of[self.name].set_defaults({"trainer.logger": False})
        if self.name == "sample":
            if self.checkpoint is None and not {"-h", "--help"} & set(args):
                raise UsageError("vaebm sample needs --ckpt_path PATH of a checkpoint")
        if self.evaluates and self.checkpoint is not None:
            parser_of[self.name].set_defaults(self._defaults(self.checkpoint))
        self.config = parser.parse_args(args)

    @staticmethod
    def _defaults(checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The model, and the data if it was stored, as the checkpoint was trained with."""
        defaults = {}
        for key, stored in (
            ("model", checkpoint["hyper_parameters"]),
            ("data", checkpoint.get("datamodule_hyper_parameters", {})),
        ):
            if "_class_path" in stored:
                init_args = {k: v for k, v in stored.items() if not k.startswith("_")}
                defaults[key] = {"class_path": stored["_class_path"], "init_args": init_args}
        return defaults

    def _parse_ckpt_path(self) -> None:
        """Take the VAE from the checkpoint: a stage-2 file stands alone.

        A benchmark without one takes the architecture of the config of stage 1.
        """
        settings = self.config[self.config.subcommand]
        if settings.get("ckpt_path") == LAST:
            settings.ckpt_path, self.checkpoint = self._last_checkpoint(settings)
        model = settings.get("model")
        config = vae_config(self.checkpoint) if self.checkpoint else None
        if self.name == "benchmark" and not self.checkpoint and has_no_vae(model):
            config = next(filter(None, map(vae_of_sibling, options_of(self.args, "config"))), None)
        if config and model is not None and "vae_checkpoint" in model.get("init_args", {}):
            # The whole model, because jsonargparse cannot merge keys into a `vae: null`.
            whole = self.config[self.config.subcommand].pop("model").as_dict()
            whole["init_args"]["vae"] = config
            self.config = self.parser.parse_object(
                {self.config.subcommand: {"model": whole}}, self.config
            )

    def _last_checkpoint(self, settings: Namespace) -> tuple[str | None, dict[str, Any] | None]:
        """Path and content of the checkpoint to go on from, none before the first."""
        if self.name != "fit":
            raise UsageError(f"--ckpt_path {LAST} is for vaebm fit: give vaebm {self.name} a path")
        folders = folders_of(settings.trainer.as_dict())
        name = str((settings.get("model") or {}).get("class_path", "")).rpartition(".")[2]
        path = agreed(lambda: last_checkpoint(folders, name))
        if path is None:
            where = " or ".join(map(str, folders))
            rank_zero_info(f"no checkpoint below {where} yet: the training starts at its beginning")
            return None, None
        return str(path), read_checkpoint(path)

    def before_instantiate_classes(self) -> None:
        """Say what is missing before Lightning does."""
        config: Namespace = self.config[self.subcommand]
        if self.subcommand == "fit" and self.checkpoint:
            self._check_resumption(config, self.checkpoint)
        if self.subcommand not in ("fit", "benchmark") and config.get("ckpt_path") is None:
            raise UsageError(f"vaebm {self.subcommand} needs --ckpt_path PATH of a checkpoint")
        if self.subcommand not in ("sample", "benchmark") and config.get("data") is None:
            raise UsageError(f"vaebm {self.subcommand} needs data: --config NAME, or --data CLASS")

    @staticmethod
    def _check_resumption(config: Namespace, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that cannot be gone on from; end where nothing is left to do."""
        if "optimizer_states" not in checkpoint:
            raise UsageError(
                "--ckpt_path is a checkpoint of weights alone, as `vaebm convert` writes it: no "
                "training can be resumed from it, but --model.vae_checkpoint takes it for stage 2"
            )
        step, steps = checkpoint["global_step"], config.trainer.max_steps
        if 0 <= steps <= step:
            rank_zero_info(f"nothing is left to do: of {steps} steps {step} are done")
            print(f"checkpoint: {config.ckpt_path}")
            raise SystemExit(0)

    def before_fit(self) -> None:
        """Keep the figures of an earlier part of the run, which Lightning would remove."""
        for logger in self.trainer.loggers if self.trainer.is_global_zero else []:
            if isinstance(logger, CSVLogger):
                figures = Path(logger.log_dir, "metrics.csv")
                if figures.exists():
                    figures.rename(free_path(figures))

    def after_fit(self) -> None:
        """Tell where the result is."""
        saver = self.trainer.checkpoint_callback
        path = getattr(saver, "last_model_path", "") or getattr(saver, "best_model_path", "")
        if path and self.trainer.is_global_zero:
            print(f"checkpoint: {path}")


class SaveConfig(lightning_cli.SaveConfigCallback):
    """Saves the whole config of a training beside its checkpoints and with its loggers."""

    folder: Path

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Save for `fit` alone: evaluation is described by its checkpoint."""
        if stage == "fit":
            self.folder = require_log_folder(trainer)
            if trainer.logger is None:  # beside the checkpoints; a config.yaml here may be a user's
                own = getattr(trainer.checkpoint_callback, "dirpath", None)
                self.folder = Path(own or self.folder / "checkpoints")
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Save; Lightning's own folder is one for all runs of Weights & Biases."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.yaml"
        self.parser.save(self.config, str(path), skip_unset=False, overwrite=True, multifile=False)
        log_config(trainer, path)


@contextmanager
def parting() -> Iterator[None]:
    """Part from the other processes before the interpreter ends.

    Lightning does so with NCCL. Threads of gloo that are still alive then end some runs with
    SIGABRT, after all its work. After an error others may be waiting: then it is left to the end.
    """
    try:
        yield
    except SystemExit:
        part()
        raise
    part()


def part() -> None:
    """Leave the group of processes, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run(args: list[str], cli: type[VAEBMCLI] = VAEBMCLI) -> None:
    """Run one subcommand.

    Args:
        args: The command line without the program's name.
        cli: What does so.

    Raises:
        UsageError: If the command line makes no sense.
    """
    for registry in (samplers, spaces, models, datamodules):
        registry.load_plugins()
    with parting():
        cli(
            trainer_class=VAEBMTrainer,
            trainer_defaults={"callbacks": [MetricsFile(), PredictionsFile()]},
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": "vaebm", "description": "Train, sample and evaluate VAEBM."},
            auto_configure_optimizers=False,
            args=args,
        )
