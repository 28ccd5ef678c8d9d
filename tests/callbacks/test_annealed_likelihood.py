"""log Z and log h of tiny models through the command line, against quadrature."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.test_chain_report import metrics_of, report
from tests.runs import trained
from vaebm.annealing import Annealed
from vaebm.callbacks import AnnealedLikelihood

LIKELIHOOD: dict[str, Any] = {
    "class_path": "vaebm.callbacks.AnnealedLikelihood",
    "init_args": {
        "num_temperatures": 30,
        "num_chains": 400,
        "batch_size": 200,
        "num_importance_samples": 300,
        "sampler": {
            "class_path": "vaebm.samplers.MALASampler",
            "init_args": {"step_size": 0.3},
        },
    },
}
EXACT = {
    "class_path": "vaebm.callbacks.ToyEvaluation",
    "init_args": {"num_samples": 50, "spacing": 0.05, "num_draws": 16384},
}


def test_figures_agree_with_quadrature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = []
    for name, callback in (("annealed", LIKELIHOOD), ("exact", EXACT)):
        (tmp_path / name).mkdir()
        result = report(capsys, tmp_path / name, callback, trained().ebm)
        assert (result.code, result.errors) == (0, [])
        metrics.append(metrics_of(tmp_path / name))
    found, exact = metrics
    assert abs(found["test/ais_log_z"] - exact["test/log_z"]) < 0.05
    low = found["test/ais_log_z"] - 3 * found["test/ais_log_z_error"]
    high = found["test/ais_log_z_upper"] + 3 * found["test/ais_log_z_upper_error"]
    assert low < exact["test/log_z"] < high
    assert found["test/ais_log_z_ess"] > 100
    assert found["test/log_px_importance"] == pytest.approx(-exact["test/nll_vae"], abs=0.05)
    assert found["test/log_h"] == pytest.approx(-exact["test/nll_vaebm"], abs=0.08)
    gap = found["test/ais_log_z_upper"] - found["test/ais_log_z"]
    assert found["test/log_h"] - found["test/log_h_lower"] == pytest.approx(gap, abs=1e-4)


def test_kernel_with_a_bias_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"num_temperatures": 3, "num_chains": 4, "num_importance_samples": 2}
    arguments |= {"sampler": {"class_path": "LangevinSampler"}, "go_back": False}
    result = report(capsys, tmp_path, {**LIKELIHOOD, "init_args": arguments}, trained().ebm)
    assert result.code == 0
    assert "log Z will be biased" in result.err
    assert "test/ais_log_z_upper" not in metrics_of(tmp_path)


def test_likelihood_of_a_vae_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = report(capsys, tmp_path, LIKELIHOOD, trained().vae)
    assert result.code == 2
    assert ["NoiseSpace(prior='noise')" in line for line in result.errors] == [True]


def test_chains_go_back_from_the_ends_of_all_batches_by_weight() -> None:
    log_weight = torch.tensor([-50.0, 0.0, -50.0, 0.0])
    state = torch.arange(4.0)[:, None]
    up = Annealed(log_weight, state, torch.ones(4))
    start = AnnealedLikelihood(batch_size=1).model_samples(up)
    assert sorted(start.flatten().tolist()) == [1, 1, 3, 3]
