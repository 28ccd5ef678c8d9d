"""The command line with two processes on one machine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.callbacks.test_annealed_likelihood import LIKELIHOOD
from tests.callbacks.test_chain_report import metrics_of, settings
from tests.runs import LAST, STAGE_2, overlay, trained

pytestmark = pytest.mark.slow


def vaebm(folder: Path, processes: int, command: str, *args: object) -> None:
    """Run `vaebm` in a folder, made for it."""
    folder.mkdir(exist_ok=True)
    options = ["--trainer.accelerator", "cpu", "--trainer.devices", processes]
    options += ["--trainer.strategy", "ddp"] if processes > 1 else []
    subprocess.run(
        [sys.executable, "-m", "vaebm.cli", command, *map(str, (*args, *options))],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # sums in another order would round otherwise
        check=True,
        capture_output=True,
        timeout=120,
    )


def test_fit_validates_draws_and_saves(tmp_path: Path) -> None:
    checkpoints, grid = STAGE_2["trainer"]["callbacks"][-1], {"class_path": "SampleGrid"}  # type: ignore[index]
    trainer = {**STAGE_2["trainer"], "callbacks": [grid, checkpoints], "limit_val_batches": 1}
    small = overlay(tmp_path / "small.yaml", {**STAGE_2, "trainer": trainer})
    vae = ("--model.vae_checkpoint", trained().vae)
    vaebm(tmp_path, 2, "fit", "--config", "gaussians25_ebm", "--config", small, *vae)
    runs = tmp_path / "runs/gaussians25_ebm"
    assert (runs / LAST).exists()
    assert [path.name for path in runs.rglob("*.png")] == ["step=0000004.png"]


def test_annealed_likelihood_is_that_of_one_process(tmp_path: Path) -> None:
    odd: dict[str, Any] = {**LIKELIHOOD["init_args"], "num_chains": 301, "num_images": 61}
    small = overlay(tmp_path / "small.yaml", settings({**LIKELIHOOD, "init_args": odd}))
    for processes in (1, 2):
        configs = ("--config", "gaussians25_ebm", "--config", small)
        folder = tmp_path / str(processes)
        vaebm(folder, processes, "test", *configs, "--ckpt_path", trained().ebm)
    one, two = (metrics_of(tmp_path / str(processes)) for processes in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)
    assert two["test/ais_log_z_ess"] > 100


@pytest.mark.parametrize("stage", ["vae", "ebm"])
@pytest.mark.parametrize(("num_test", "batch_size"), [(101, 50), (1, 50)])
def test_figures_are_those_of_one_process(
    tmp_path: Path, stage: str, num_test: int, batch_size: int
) -> None:
    data = {"batch_size": batch_size, "num_train": 600, "num_test": num_test}
    small = overlay(
        tmp_path / "small.yaml", {"data": {"init_args": data}, "trainer": {"callbacks": []}}
    )
    configs = ("--config", f"gaussians25_{stage}", "--config", small)
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        vaebm(folder, processes, "test", *configs, "--ckpt_path", getattr(trained(), stage))
    one, two = (metrics_of(tmp_path / str(processes)) for processes in (1, 2))
    assert "test/elbo" in one
    assert two == pytest.approx(one, rel=1e-6)


def arrays(path: Path) -> dict[str, Any]:
    """What a NumPy archive holds."""
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize("stage", ["vae", "ebm"])
def test_samples_are_those_of_one_process(tmp_path: Path, stage: str) -> None:
    options = ("--num_samples", 21, "--batch_size", 5, "--output", "samples")
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        vaebm(folder, processes, "sample", "--ckpt_path", getattr(trained(), stage), *options)
    one, two = (arrays(tmp_path / f"{n}/samples/samples.npz")["arr_0"] for n in (1, 2))
    assert one.shape == (21, 2)
    assert np.array_equal(one, two)


def test_predictions_are_those_of_one_process_in_the_order_of_the_images(tmp_path: Path) -> None:
    options = ("--data.num_test", 61, "--data.batch_size", 10)
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        vaebm(folder, processes, "predict", "--ckpt_path", trained().ebm, *options)
    one, two = (arrays(next((tmp_path / str(n)).rglob("predictions*.npz"))) for n in (1, 2))
    assert one["index"].tolist() == two["index"].tolist() == list(range(61))
    assert one.keys() == two.keys() > {"elbo", "energy"}
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("command", ["sample", "predict"])
def test_less_work_than_processes_is_one_line(tmp_path: Path, command: str) -> None:
    few = ("--num_samples", 1) if command == "sample" else ("--data.num_test", 1)
    with pytest.raises(subprocess.CalledProcessError) as found:
        vaebm(tmp_path, 2, command, "--ckpt_path", trained().ebm, *few)
    errors = [line for line in found.value.stderr.decode().splitlines() if "error:" in line]
    number, what = few[1], "samples" if command == "sample" else "images"
    # The process that Lightning started may have been stopped before it could say so too.
    assert set(errors) == {f"vaebm: error: {number} {what} are too few for 2 processes"}
