"""What ``--ckpt_path last`` means: the newest sound checkpoint of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from vaebm.checkpoints.reading import read_checkpoint
from vaebm.errors import DataError

LAST = "last"


def folders_of(trainer: Mapping[str, Any]) -> list[Path]:
    """The folders in which the trainings of a config leave their checkpoints.

    Args:
        trainer: Settings of the trainer: its logger, callbacks and ``default_root_dir``.
    """
    root = trainer.get("default_root_dir") or "."
    logger = trainer.get("logger")
    loggers = logger if isinstance(logger, list) else [logger]
    settings = settings_of(loggers[0] if loggers else None)
    # A run of W&B lies in the folder of its project.
    name = settings.get("project") or settings.get("name") or "lightning_logs"
    folder = Path(settings.get("save_dir") or root) / ("checkpoints" if logger is False else name)
    callbacks = trainer.get("callbacks")
    own = callbacks if isinstance(callbacks, list) else [callbacks]
    return [folder, *(Path(s["dirpath"]) for s in map(settings_of, own) if s.get("dirpath"))]


def settings_of(config: Any) -> Mapping[str, Any]:
    """The arguments of a class in a config."""
    found = config.get("init_args") if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def last_checkpoint(folders: Sequence[Path]) -> Path | None:
    """The newest checkpoint below some folders from which a training can go on.

    Args:
        folders: Where to look, at any depth.

    Returns:
        Its path, or None where there is none. Damaged ones are named in a warning.
    """
    found = {path for folder in folders for path in folder.rglob("*.ckpt")}
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next(filter(can_resume, newest_first), None)


def can_resume(path: Path) -> bool:
    """Whether a file is a whole checkpoint of a training."""
    try:
        return "optimizer_states" in read_checkpoint(path)
    except DataError as error:
        rank_zero_warn(f"{error}; an older one is tried")
        return False
