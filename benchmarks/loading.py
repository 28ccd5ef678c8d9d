"""Whether the data keep up: images per second of the loader and of training, in the same rounds.

Runs `vaebm fit` for some steps and, between two steps, takes batches of a second loader. Give the
options of a training; absolute numbers are noise on a busy machine, their ratio is not.

    python benchmarks/loading.py --config cifar10_ebm_small.yaml --trainer.max_steps 5
"""

import sys
import time
from collections.abc import Iterator
from itertools import chain, repeat
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from vaebm.cli import main
from vaebm.stage import images_of

BATCHES = 5  # of the loader after each step of the training


class Loading(Callback):
    """Times steps and batches in turn and prints what both make in a second."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.loads: list[float] = []
        self.batches: Iterator[Any] = iter(())
        self.batch_size = 0
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the second loader and wait until its processes run."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.batches = chain.from_iterable(repeat(data.train_dataloader()))
        self.batch_size = len(images_of(next(self.batches)))

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        """A step begins."""
        self._start = now()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """A step is done: load some batches."""
        self.steps.append(now() - self._start)
        for _ in range(BATCHES):
            start = now()
            next(self.batches)
            self.loads.append(now() - start)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the medians."""
        step, load = (self.batch_size / median(times) for times in (self.steps, self.loads))
        print(f"training: {step:.4g} images per second")
        print(f"loader:   {load:.4g} images per second")
        print(f"ratio:    {load / step:.4g}")


def now() -> float:
    """Seconds, when the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    options = ["--trainer.callbacks", "loading.Loading", "--trainer.logger", "false"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
    sys.exit(main(["fit", *sys.argv[1:], *options, *quiet]))
