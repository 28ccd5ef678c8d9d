"""What ``--ckpt_path last`` means: the newest sound checkpoint of a run."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from vaebm.checkpoints.chains import has_chains
from vaebm.checkpoints.reading import read_checkpoint
from vaebm.errors import DataError, UsageError

LAST = "last"
CHOSEN = "VAEBM_LAST_CHECKPOINT"  # number of the process that chose, and its choice


def folders_of(trainer: Mapping[str, Any]) -> list[Path]:
    """The folders in which the trainings of a config leave their checkpoints.

    Args:
        trainer: Settings of the trainer: its logger, callbacks and ``default_root_dir``.
    """
    root = trainer.get("default_root_dir") or "."
    logger = trainer.get("logger")
    loggers = logger if isinstance(logger, list) else [logger]
    first = loggers[0] if loggers else None
    settings = settings_of(first)
    if isinstance(first, Mapping) and str(first.get("class_path")).endswith("WandbLogger"):
        # A run of W&B lies in the folder of its project.
        name = settings.get("project") or os.environ.get("WANDB_PROJECT")
    else:
        name = "checkpoints" if logger is False else settings.get("name")
    folder = Path(settings.get("save_dir") or root) / (name or "lightning_logs")
    callbacks = trainer.get("callbacks")
    own = callbacks if isinstance(callbacks, list) else [callbacks]
    return [folder, *(Path(s["dirpath"]) for s in map(settings_of, own) if s.get("dirpath"))]


def settings_of(config: Any) -> Mapping[str, Any]:
    """The arguments of a class in a config."""
    found = config.get("init_args") if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def last_checkpoint(folders: Sequence[Path], model: str | None = None) -> Path | None:
    """The newest checkpoint below some folders from which a training can go on.

    Args:
        folders: Where to look, at any depth.
        model: Name of the stage's class, since runs of both stages may share a folder; None takes
            any.

    Returns:
        Its path, or None where there is none. Damaged ones are named in a warning. One whose
        persistent chains are gone is taken only where all are like that.
    """
    found = {path for folder in folders for path in folder.rglob("*.ckpt") if path.is_file()}
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    without_chains = None
    for path in newest_first:
        checkpoint = resumable(path)
        if checkpoint is None or (model and name_of(checkpoint) not in (model, None)):
            continue
        if has_chains(path, checkpoint):
            return path
        rank_zero_warn(f"{path}: its chains are missing or damaged; an older one is tried")
        without_chains = without_chains or path
    return without_chains


def name_of(checkpoint: Mapping[str, Any]) -> str | None:
    """Name of the class that was trained."""
    path = checkpoint.get("hyper_parameters", {}).get("_class_path")
    return None if path is None else str(path).rpartition(".")[2]


def agreed(choose: Callable[[], Path | None]) -> Path | None:
    """A choice that holds for the processes too that Lightning starts from this one.

    They would else choose for themselves, and another training may write meanwhile.

    Args:
        choose: Makes the choice in the first process.
    """
    parent, _, path = os.environ.get(CHOSEN, "").partition(":")
    if parent == str(os.getppid()) and os.environ.get("LOCAL_RANK", "0") != "0":
        return Path(path) if path else None
    found = choose()
    os.environ[CHOSEN] = f"{os.getpid()}:{found or ''}"
    return found


def resumable(path: Path) -> dict[str, Any] | None:
    """The content of a file that is a whole checkpoint of a training, else None."""
    try:
        checkpoint = read_checkpoint(path)
    except DataError as error:
        rank_zero_warn(f"{error}; an older one is tried")
        return None
    except UsageError:  # gone in the meantime
        return None
    return checkpoint if "optimizer_states" in checkpoint else None
