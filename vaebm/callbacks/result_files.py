"""Files that evaluation leaves in the log folder."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.trainer.states import TrainerFn

from vaebm.callbacks.sample_grid import log_folder


class MetricsFile(Callback):
    """Writes what `vaebm validate` and `test` log to ``metrics.json``, under the same names."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after `validate`, not within a training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after `test`."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        path = log_folder(trainer) / "metrics.json"
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"metrics: {path}")


def flat(nested: Any) -> Iterator[int]:
    """The numbers in lists of lists."""
    for item in nested:
        if isinstance(item, int):
            yield item
        else:
            yield from flat(item)


class PredictionsFile(BasePredictionWriter):
    """Writes what `vaebm predict` computes to ``predictions.npz``.

    One array per quantity, and ``index``, the number of each image in the data set.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Any,
        batch_indices: Any,
    ) -> None:
        """Join the batches; every rank writes the part it computed."""
        if not (predictions and isinstance(predictions[0], dict)):
            return
        arrays = {
            name: torch.cat([batch[name] for batch in predictions]).cpu().numpy()
            for name in predictions[0]
        }
        arrays["index"] = np.fromiter(flat(batch_indices), int)
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = log_folder(trainer) / f"predictions{rank}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        print(f"predictions: {path}")
