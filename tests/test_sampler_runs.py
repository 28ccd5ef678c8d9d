"""Samplers train stage 2 by their name alone, and a mixture samples from its checkpoint."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest

from tests.runs import LAST, TINY, Result, overlay, run, trained
from vaebm.samplers import samplers

ELSEWHERE = {"LangevinSampler", "ResamplingSampler"}  # in most other tests of the command line
ENERGY = {"init_args": {"width": 16, "depth": 1}}
MIXTURE = {
    "class_path": "MixtureSampler",
    "init_args": {
        "num_steps": 4,
        "weights": [3, 1, 1],
        "kernels": [
            {"class_path": "IndependenceSampler"},
            {
                "class_path": "HMCSampler",
                "init_args": {
                    "num_leapfrog": 1,
                    "schedule": {"class_path": "Schedule", "init_args": {"final": 0.5}},
                },
            },
            {
                "class_path": "MALASampler",
                "init_args": {
                    "step_size": 0.02,
                    "adaptation": {"class_path": "DualAveraging", "init_args": {"burn_in": 2}},
                },
            },
        ],
    },
}


def fit(capsys: pytest.CaptureFixture[str], folder: Path, model: object, *args: object) -> Result:
    """Train with `gaussians25_ebm`, whose own sampler is another one."""
    settings = {**TINY, "model": {"init_args": model}}
    with chdir(folder):
        small = overlay(folder / "small.yaml", settings)
        vae = ("--model.vae_checkpoint", trained().vae)
        return run(capsys, "fit", "--config", "gaussians25_ebm", "--config", small, *vae, *args)


def sample(capsys: pytest.CaptureFixture[str], folder: Path, *args: object) -> np.ndarray:
    """Draw twelve samples from the training's checkpoint."""
    ckpt = folder / "runs/gaussians25_ebm" / LAST
    out = folder / "out"
    options = ("--ckpt_path", ckpt, "--num_samples", 12, "--output", out)
    assert run(capsys, "sample", *options, *args).code == 0
    return np.load(out / "samples.npz")["arr_0"]


@pytest.mark.parametrize("name", sorted({*samplers.names()} - ELSEWHERE))
def test_sampler_is_swapped_in_by_its_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fit(capsys, tmp_path, {"energy": ENERGY}, "--model.sampler", name)
    assert (result.code, result.errors) == (0, [])


def test_mixture_of_kernels_comes_from_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = fit(capsys, tmp_path, {"energy": ENERGY, "sampler": MIXTURE})
    assert (result.code, result.errors) == (0, [])
    whole = sample(capsys, tmp_path, "--batch_size", 12)
    assert np.isfinite(whole).all()
    parts = sample(capsys, tmp_path, "--batch_size", 5)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_bad_weights_of_a_mixture_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {**MIXTURE, "init_args": {**MIXTURE["init_args"], "weights": [1, 2]}}  # type: ignore[dict-item]
    result = fit(capsys, tmp_path, {"energy": ENERGY, "sampler": bad})
    assert result.code == 2
    assert len(result.errors) == 1
    assert "2 weights for 3 kernels" in result.errors[0]
