"""Files that evaluation leaves behind."""

import json
from pathlib import Path

import numpy as np

from tests.training import ebm_stage, small_trainer, toy_data
from vaebm.callbacks import MetricsFile, PredictionsFile


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_are_written_after_a_test(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, MetricsFile())
    trainer.test(ebm_stage(), toy_data(), verbose=False)
    assert set(metrics(tmp_path)) == {"test/elbo", "test/energy", "test/elbo_minus_energy"}


def test_metrics_are_written_after_a_validation(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, MetricsFile(), limit_val_batches=1)
    trainer.validate(ebm_stage(), toy_data(), verbose=False)
    assert set(metrics(tmp_path)) == {"val/energy_data", "val/energy_gap"}


def test_metrics_are_those_that_were_logged(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, MetricsFile())
    trainer.test(ebm_stage(), toy_data(), verbose=False)
    assert metrics(tmp_path) == {n: float(v) for n, v in trainer.callback_metrics.items()}


def test_metrics_are_not_written_by_a_training_with_validations(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, MetricsFile(), limit_val_batches=1)
    trainer.fit(ebm_stage(), toy_data())
    assert not (tmp_path / "metrics.json").exists()


def test_predictions_are_those_that_were_returned(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, PredictionsFile())
    batches = trainer.predict(ebm_stage(), toy_data())
    energy = np.concatenate([batch["energy"].numpy() for batch in batches])  # type: ignore[index,call-overload,union-attr]
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert np.array_equal(arrays["energy"], energy)
