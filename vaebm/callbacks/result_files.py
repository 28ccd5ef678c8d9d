"""Files that evaluation leaves in the log folder."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.trainer.states import TrainerFn

from vaebm.callbacks.logs import log_folder, require_log_folder
from vaebm.sampling import gather
from vaebm.stage import Stage


class MetricsFile(Callback):
    """Writes what `vaebm validate` and `test` log to ``metrics.json``, under the same names.

    ``run.json`` beside it says of what model and data, for `vaebm report`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Try the folder before the work."""
        if stage in ("validate", "test"):
            require_log_folder(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after `validate`, not within a training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write after `test`."""
        self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = log_folder(trainer) / "metrics.json"
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(metrics, indent=2) + "\n")
        data = type(trainer.datamodule).__name__  # type: ignore[attr-defined]
        about = {"model": description(pl_module), "data": data, "settings": settings(pl_module)}
        path.with_name("run.json").write_text(json.dumps(about, indent=2) + "\n")
        print(f"metrics: {path}")


def description(pl_module: LightningModule) -> str:
    """What a model is, in the words of the paper's tables."""
    if not isinstance(pl_module, Stage):
        return type(pl_module).__name__
    space, replay = getattr(pl_module, "space", None), getattr(pl_module, "replay", None)
    place = f" {space.description}" if space is not None and space.description else ""
    return f"{pl_module.title}{place}{', persistent chains' if replay is not None else ''}"


def settings(pl_module: LightningModule) -> str:
    """Eight digits that differ where the model's arguments do, seeds and paths left out."""
    kept = {
        name: repr(value)
        for name, value in sorted(pl_module.hparams.items())
        if not name.startswith("_") and name not in ("seed", "vae_checkpoint")
    }
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:8]


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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Try the folder before the work; samples go elsewhere."""
        if stage == "predict" and isinstance(pl_module, Stage):
            require_log_folder(trainer)

    def write_on_epoch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        predictions: Any,
        batch_indices: Any,
    ) -> None:
        """Join the batches of all processes, in the order of the images."""
        if not (predictions and isinstance(predictions[0], dict)):
            return
        numbers = torch.tensor(list(flat(batch_indices)))
        arrays = {
            name: gather([(numbers, torch.cat([batch[name] for batch in predictions]).cpu())])
            for name in predictions[0]
        }
        arrays["index"] = gather([(numbers, numbers)])
        path = log_folder(trainer) / "predictions.npz"
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
            print(f"predictions: {path}")
