"""Chains are judged by real tests of tiny models through the command line."""

import csv
import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.runs import Result, overlay, run, trained

SAMPLER = {"class_path": "vaebm.samplers.MALASampler", "init_args": {"step_size": 0.5}}
REPORT = {
    "class_path": "vaebm.callbacks.ChainReport",
    "init_args": {"num_chains": 8, "num_steps": 200, "sampler": SAMPLER, "num_projections": 1},
}


def settings(callback: dict[str, Any]) -> dict[str, Any]:
    """A test of little data with one callback."""
    return {
        "data": {"init_args": {"num_train": 600, "num_test": 100}},
        "trainer": {"callbacks": [callback], "enable_progress_bar": False},
    }


def report(
    capsys: pytest.CaptureFixture[str], folder: Path, callback: dict[str, Any], ckpt: Path
) -> Result:
    with chdir(folder):
        small = overlay(folder / "small.yaml", settings(callback))
        command = ("test", "--config", "gaussians25_ebm", "--config", small, "--ckpt_path", ckpt)
        return run(capsys, *command)


def metrics_of(folder: Path) -> dict[str, float]:
    (path,) = folder.rglob("metrics.json")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_report_gives_figures_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = report(capsys, tmp_path, REPORT, trained().ebm)
    assert (result.code, result.errors) == (0, [])
    metrics = metrics_of(tmp_path)
    names = ("potential", "state_square", "projection_0")
    for name in names:
        assert 0.9 < metrics[f"test/rhat_{name}"] < 1.3
        # 8 chains, 100 steps that count
        ess = metrics[f"test/ess_{name}"]
        assert metrics[f"test/autocorrelation_{name}"] == pytest.approx(800 / ess, rel=1e-4)
    slowest = min(metrics[f"test/ess_{name}"] for name in names)
    assert metrics["test/ess_per_gradient"] == pytest.approx(slowest / (8 * 201 / 2), rel=1e-4)
    assert metrics["test/ess_per_second"] > 0
    assert 0.3 < metrics["test/accept_prob"] < 1
    (table,) = tmp_path.rglob("chains.csv")
    with table.open() as file:
        assert {row["observable"] for row in csv.DictReader(file)} == set(names)
    (picture,) = tmp_path.rglob("chains.png")
    assert np.asarray(Image.open(picture)).std() > 0


def test_report_takes_the_kernel_of_the_training_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = {**REPORT, "init_args": {"num_chains": 4, "num_steps": 20, "burn_in": 4}}
    result = report(capsys, tmp_path, callback, trained().ebm)
    assert (result.code, result.errors) == (0, [])
    assert metrics_of(tmp_path)["test/ess_per_gradient"] > 0


def test_report_of_a_vae_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report(capsys, tmp_path, REPORT, trained().vae)
    assert result.code == 2
    assert ["ChainReport is for stage 2" in line for line in result.errors] == [True]


def test_report_with_nothing_after_burn_in_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = {**REPORT, "init_args": {"num_steps": 10, "burn_in": 8}}
    result = report(capsys, tmp_path, callback, trained().ebm)
    assert result.code == 2
    assert ["at least 4 steps more than burn_in" in line for line in result.errors] == [True]
