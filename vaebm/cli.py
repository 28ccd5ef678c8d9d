"""The command `vaebm`: cheap answers at once, everything else through LightningCLI."""

import io
import logging
import sys
import traceback
import warnings
from argparse import ArgumentParser
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from vaebm import __version__
from vaebm.errors import UsageError, cause_of, first_line, is_misuse
from vaebm.registry import find_plugins, is_builtin, origin, unknown_name

COMMANDS = {
    "fit": "Train a VAE (stage 1) or an energy on top of one (stage 2).",
    "validate": "Evaluate a checkpoint on the validation data.",
    "test": "Evaluate a checkpoint on the test data: a table, metrics.json and pictures.",
    "predict": "Compute ELBO and energy of every test image, to predictions.npz.",
    "sample": "Draw samples from a checkpoint, to samples.npz and grid.png.",
    "benchmark": "Time stage 2 beside a baseline and this machine's limits, to benchmark.json.",
    "convert": "Turn a published NVAE or energy network into a checkpoint of stage 1 or 2.",
    "report": "Put figures of `vaebm test` beside the paper's, to report.md and report.png.",
    "export": "Write weights and settings of a checkpoint to a safetensors file.",
    "completion": "Print a script that completes commands and options in a shell.",
    "list": "Show the samplers, spaces, models, datamodules and configs there are.",
}

USAGE = """usage: vaebm COMMAND [options]

{commands}

  vaebm COMMAND --help             all options of a command
  vaebm fit --model.help EBMStage  the arguments of a class
  --debug                          show the traceback of an error
  --version                        show the version

A training:
  vaebm fit --config gaussians25_vae.yaml
  vaebm fit --config gaussians25_ebm.yaml --model.vae_checkpoint VAE.ckpt
  vaebm sample --ckpt_path EBM.ckpt --num_samples 1000 --output samples

A published NVAE, and an energy network on top of it:
  vaebm convert checkpoint.pt --output nvae.ckpt
  vaebm convert EBM.pth --vae_checkpoint nvae.ckpt --output ebm.ckpt"""

KINDS = ("samplers", "spaces", "models", "datamodules")


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: Arguments without the program's name; those of the process by default.

    Returns:
        0, or 1 for an error, 2 for a wrong use, 130 if interrupted, 143 if terminated.
    """
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # help texts hold Greek letters
    debug = "--debug" in args
    try:
        with warnings.catch_warnings():
            quieten()
            dispatch([arg for arg in args if arg != "--debug"])
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return exit_code(stop)
    except Exception as raised:
        if debug:
            traceback.print_exc()
        error = cause_of(raised)
        print(f"vaebm: error: {first_line(error)}", file=sys.stderr)
        return 2 if is_misuse(error) else 1
    return 0


def exit_code(stop: SystemExit) -> int:
    """The exit code that a SystemExit stands for."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    # Lightning ends a training so on SIGTERM; told by name, since Lightning may not be imported.
    if type(stop).__name__ == "SIGTERMException":
        return 143
    return stop.code if isinstance(stop.code, int) else 0


def dispatch(args: list[str]) -> None:
    """Answer what needs no imports, hand the rest to LightningCLI."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {n:11} {t}" for n, t in COMMANDS.items())))
    elif args[0] == "--version":
        print(f"vaebm {__version__}")
    elif args[0] == "list":
        parser = OneLineParser("vaebm list", description=COMMANDS["list"], allow_abbrev=False)
        parser.parse_args(args[1:])
        print("\n".join(listing()))
    elif args[0] == "convert":
        run_convert(args[1:])
    elif args[0] == "report":
        run_report(args[1:])
    elif args[0] == "export":
        run_export(args[1:])
    elif args[0] == "completion":
        run_completion(args[1:])
    elif not args[0].startswith("-") and args[0] not in COMMANDS:
        raise UsageError(unknown_name(args[0], COMMANDS, "commands"))
    else:
        from vaebm.lightning_cli import run

        run(args)


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line for main() to print."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        raise UsageError(f"{message}; see {self.prog} --help")


def run_convert(args: list[str]) -> None:
    """Run `vaebm convert`."""
    parser = OneLineParser("vaebm convert", description=COMMANDS["convert"], allow_abbrev=False)
    parser.add_argument(
        "checkpoint", help="a file that NVAE's or VAEBM's training wrote, e.g. checkpoint.pt"
    )
    parser.add_argument("--output", required=True, help="the checkpoint to write, e.g. nvae.ckpt")
    parser.add_argument(
        "--vae_checkpoint",
        help="of an energy network, the NVAE that it was trained on, converted or as published",
    )
    options = parser.parse_args(args)
    from vaebm.convert import convert

    convert(options.checkpoint, options.output, options.vae_checkpoint)
    print(f"checkpoint: {options.output}")


def run_report(args: list[str]) -> None:
    """Run `vaebm report`."""
    parser = OneLineParser("vaebm report", description=COMMANDS["report"], allow_abbrev=False)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the log folder of a `vaebm test`"
    )
    parser.add_argument("--output", type=Path, default=Path("report"), help="folder to write to")
    options = parser.parse_args(args)
    from vaebm.report import report

    print("report:", *report(options.runs, options.output))


def run_export(args: list[str]) -> None:
    """Run `vaebm export`."""
    parser = OneLineParser("vaebm export", description=COMMANDS["export"], allow_abbrev=False)
    parser.add_argument("checkpoint", help="a checkpoint of stage 1 or 2")
    parser.add_argument(
        "--output", required=True, type=Path, help="the file to write, NAME.safetensors"
    )
    options = parser.parse_args(args)
    from vaebm.checkpoints.reading import read_checkpoint
    from vaebm.checkpoints.safetensors_file import is_safetensors, write_safetensors
    from vaebm.outputs import check_file

    if not is_safetensors(options.output):
        raise UsageError(f"--output {options.output}: the name must end in .safetensors")
    check_file(options.output, replace=False)
    write_safetensors(options.output, read_checkpoint(options.checkpoint))
    print(f"weights: {options.output}")


def run_completion(args: list[str]) -> None:
    """Run `vaebm completion`."""
    parser = OneLineParser("vaebm completion", description=COMMANDS["completion"])
    shells = ("bash", "zsh", "fish", "tcsh", "powershell")
    parser.add_argument("shell", choices=shells, help="the shell that is to complete")
    options = parser.parse_args(args)
    from vaebm.completion import script

    print(script(options.shell, COMMANDS))


def listing() -> Iterable[str]:
    """The lines of `vaebm list`: names and origins of all classes and configs.

    Built-in names come from the package's metadata, so that nothing heavy is imported; the
    plug-ins of other packages are imported, to warn of a broken one.
    """
    for kind in KINDS:
        group = f"vaebm.{kind}"
        names = {e.name: origin(e) for e in entry_points(group=group) if is_builtin(e)}
        names |= {plugin.name: plugin.origin for plugin in find_plugins(group)}
        yield f"{kind}:"
        yield from (f"  {name:33} {names[name]}" for name in sorted(names))
    from vaebm.config_files import shipped_configs, shipped_sweeps

    yield "configs:"
    yield from (f"  {name:33} vaebm {__version__}" for name in shipped_configs())
    yield "sweeps, for `wandb sweep FILE`:"
    yield from (f"  {path}" for path in shipped_sweeps())


def quieten() -> None:
    """Print warnings as one line, and leave out those that a user cannot act on."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print("warning:", " ".join(str(message).split()), file=sys.stderr)

    warnings.showwarning = show
    for useless in (
        ".*isinstance.treespec, LeafSpec.*",
        ".*module.s. in eval mode at the start of training.*",
        ".*does not have many workers.*",
        ".*tensorboardX.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*The dirpath has changed.*",
        ".*Experiment logs directory.*exists and is not empty.*",
        ".*WeightAveraging callback.*outside the 'fit' stage.*",
    ):
        warnings.filterwarnings("ignore", message=useless)
    for name in ("lightning.pytorch.utilities.rank_zero", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).addFilter(is_no_advertisement)


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Whether a log line is about the run, not about other products or inner workings."""
    useless = ("Tip:", "Found current_model_state")
    return not any(text in record.getMessage() for text in useless)


if __name__ == "__main__":
    sys.exit(main())
