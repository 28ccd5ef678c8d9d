"""A real offline Weights & Biases run."""

from pathlib import Path

import pytest

from tests.runs import STAGE_1, fit

pytest.importorskip("wandb", reason="the wandb extra is not installed")

LOGGER = ("--trainer.logger", "WandbLogger", "--trainer.logger.project", "tests")
GRID = {
    "class_path": "vaebm.callbacks.SampleGrid",
    "init_args": {"num_samples": 20, "every_n_validations": 1},
}


def test_offline_run_holds_the_picture_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer = {**STAGE_1["trainer"], "limit_val_batches": 1, "callbacks": [GRID]}
    settings = {**STAGE_1, "trainer": trainer}
    assert fit(tmp_path, "gaussians25_vae", settings, *LOGGER, "--trainer.logger.offline=true") == 0
    assert list(tmp_path.glob("runs/wandb/offline-run-*/files/media/images/samples_*.png"))
    assert list(tmp_path.glob("runs/tests/*/samples/step=*.png"))
