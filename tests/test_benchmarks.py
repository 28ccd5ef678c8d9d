"""The benchmarks run, on sizes that say nothing about speed."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import STAGE_1, overlay

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_decode_benchmark_counts_the_published_operations() -> None:
    module = runpy.run_path(str(BENCHMARKS / "decode.py"))
    figures = module["measure"](1, 2, 1, torch.device("cpu"))
    assert all(value > 0 for value in figures.values())
    more = module["measure"](1, 3, 1, torch.device("cpu"))
    name = "GFLOP of one image, forward"
    # 30 groups cost 26.7 GFLOP an image, so that one more costs 0.87.
    group = more[name] - figures[name]
    assert figures[name] + 28 * group == pytest.approx(26.7, rel=0.01)


def test_loading_benchmark_compares_loader_and_training(tmp_path: Path) -> None:
    small = overlay(tmp_path / "small.yaml", STAGE_1)
    command = [sys.executable, str(BENCHMARKS / "loading.py"), "--config", "gaussians25_vae"]
    result = subprocess.run(
        [*command, "--config", str(small)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    figures = {words[0]: float(words[1]) for words in lines if words[0].endswith(":")}
    assert set(figures) == {"training:", "loader:", "ratio:"}
    expected = figures["loader:"] / figures["training:"]
    assert figures["ratio:"] == pytest.approx(expected, rel=2e-3)
