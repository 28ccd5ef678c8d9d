"""The loading benchmark runs, on a size that says nothing about speed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import STAGE_1, overlay

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
