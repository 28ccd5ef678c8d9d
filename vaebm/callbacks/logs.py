"""Where a run writes its files, and what loggers get besides figures."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from matplotlib.figure import Figure

from vaebm.outputs import check_folder
from vaebm.plotting import pixels_of


def log_picture(trainer: Trainer, name: str, figure: Figure, step: int) -> None:
    """Give a picture to every logger that takes pictures."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(name, [pixels_of(figure)], step=step)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            board = logger.experiment  # type: ignore[attr-defined]
            board.add_image(name, pixels_of(figure), step, dataformats="HWC")


def log_folder(trainer: Trainer) -> Path:
    """Where this run writes its files: beside its checkpoints.

    Processes agree on it, so that all of them must ask, also if only the first one writes.
    """
    logger = trainer.logger
    if logger is None or logger.save_dir is None or getattr(logger, "log_dir", None) is not None:
        return Path(trainer.log_dir or trainer.default_root_dir)
    # Weights & Biases has one save_dir for all runs, and Lightning's checkpoints go below it.
    return Path(logger.save_dir, str(logger.name), str(logger.version))


def require_log_folder(trainer: Trainer) -> Path:
    """The folder of `log_folder`, if it can be written to; asked before any work.

    Raises:
        UsageError: If it cannot.
    """
    folder = log_folder(trainer)
    check_folder(
        folder, "--trainer.default_root_dir" if trainer.logger is None else "--trainer.logger"
    )
    return folder


def log_config(trainer: Trainer, path: Path) -> None:
    """Give the config of a training to every logger that keeps files: Weights & Biases."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            from wandb import Artifact

            artifact = Artifact(f"config-{logger.experiment.id}", "config")
            artifact.add_file(str(path))
            logger.experiment.log_artifact(artifact)
