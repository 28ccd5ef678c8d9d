"""The benchmarks run, on sizes that say nothing about speed."""

import runpy
from pathlib import Path

import pytest
import torch

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
