"""Saves a training that is asked to end, so that it goes on as if it had not been."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)


class StopOnSignal(Checkpoint):
    """Ends a training at SIGTERM or SIGUSR1 with a checkpoint, after the step that is running.

    The checkpoint is ``last.ckpt`` in the folder of the first ModelCheckpoint, with the chains of
    every process beside it. One process that got the signal stops all of them at the same step.
    The exit code is 128 plus the signal's number, 143 or 138. Under SLURM's automatic requeueing
    Lightning handles both signals, and this callback leaves them alone.

    It is a `Checkpoint` to come after weight averaging, as those do.
    """

    def __init__(self) -> None:
        self.received = 0
        self._step = 0
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen; Lightning's own handler of SIGTERM ends without a checkpoint."""
        if threading.current_thread() is not threading.main_thread() or requeues():
            return
        self.received, self._step = 0, trainer.global_step
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: object, **kwargs: object
    ) -> None:
        """Save and end if any process was asked to."""
        if trainer.global_step == self._step:
            return  # gradients that are still being accumulated would be lost
        self._step = trainer.global_step
        if not trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            return
        path = last_path(trainer)
        trainer.save_checkpoint(path, weights_only=False)
        name = signal.Signals(self.received).name if self.received else "another process"
        rank_zero_info(
            f"{name} ends this training at step {trainer.global_step}; it goes on with "
            f"--ckpt_path {path}"
        )
        raise SystemExit(128 + (self.received or signal.SIGTERM))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Tell who pressed Ctrl-C, or whose disk is full, where the last checkpoint is."""
        self._stop_listening()
        if isinstance(exception, KeyboardInterrupt | OSError):
            saved = newest(last_path(trainer).parent)
            which = f"the last checkpoint is {saved}" if saved else "there is no checkpoint yet"
            rank_zero_info(f"interrupted at step {trainer.global_step}: {which}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._stop_listening()

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def requeues() -> bool:
    """Whether Lightning listens to SIGUSR1 to requeue a job of SLURM."""
    usual = (signal.SIG_DFL, signal.SIG_IGN, None)
    return len(SIGNALS) > 1 and signal.getsignal(SIGNALS[1]) not in usual


def last_path(trainer: Trainer) -> Path:
    """Where the last checkpoint of a training is."""
    saver = trainer.checkpoint_callback
    folder = saver.dirpath if isinstance(saver, ModelCheckpoint) else None
    return Path(folder or trainer.default_root_dir) / "last.ckpt"


def newest(folder: Path) -> Path | None:
    """The checkpoint of a folder that was written last."""
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)
