"""Saves a training that is asked to end, so that it goes on as if it had not been."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from vaebm.outputs import free_path

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)


class StopOnSignal(Checkpoint):
    """Ends a training at SIGTERM or SIGUSR1 with a checkpoint, after the step that is running.

    The checkpoint is the last one of the first ModelCheckpoint, with the chains of every process
    beside it. One process that got the signal stops all of them at the same step, with the same
    exit code: 128 plus the signal's number, 143 or 138. A validation that is running is finished
    first. Under SLURM's automatic requeueing Lightning handles both signals, and this callback
    leaves them alone.

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
        number = self.received
        if trainer.world_size > 1:  # one process alone need not wait for its GPU
            received = torch.tensor(number, device=pl_module.device)
            number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if not number:
            return
        path = last_path(trainer)
        trainer.save_checkpoint(path, weights_only=False)
        rank_zero_info(
            f"{signal.Signals(number).name} ends this training at step {trainer.global_step}; "
            f"it goes on with --ckpt_path {path}"
        )
        raise SystemExit(128 + number)

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
    """Where the last checkpoint of a training is, or where one is due that replaces no other's."""
    saver = trainer.checkpoint_callback
    if isinstance(saver, ModelCheckpoint) and saver.last_model_path:
        return Path(saver.last_model_path)
    folder = Path(getattr(saver, "dirpath", None) or trainer.default_root_dir)
    return free_path(folder / "last.ckpt", Path(trainer.ckpt_path) if trainer.ckpt_path else None)


def newest(folder: Path) -> Path | None:
    """The checkpoint of a folder that was written last."""
    found = (path for path in folder.glob("*.ckpt") if path.is_file())
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
