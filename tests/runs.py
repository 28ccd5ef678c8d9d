"""Runs of the command line in this process, and tiny checkpoints to run it on."""

import atexit
import functools
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from vaebm.cli import main

# Settings that make any run on the toy data a matter of a fraction of a second.
TINY = {
    "data": {"init_args": {"batch_size": 50, "num_train": 600, "num_test": 100}},
    "trainer": {
        "max_steps": 4,
        "val_check_interval": 4,
        "limit_val_batches": 0,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
        "callbacks": [
            {
                "class_path": "vaebm.callbacks.ToyEvaluation",
                "init_args": {"num_samples": 50, "spacing": 0.2, "num_draws": 256},
            },
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"filename": "{step}", "every_n_train_steps": 2, "save_last": True},
            },
        ],
    },
}
SMALL_VAE = {"latent_dim": 4, "width": 16, "depth": 1}
STAGE_1 = {**TINY, "model": {"init_args": {"vae": {"init_args": SMALL_VAE}}}}
STAGE_2 = {
    **TINY,
    "model": {
        "init_args": {
            "energy": {"init_args": {"width": 16, "depth": 1}},
            "sampler": {
                "class_path": "vaebm.samplers.LangevinSampler",
                "init_args": {"num_steps": 3, "step_size": 0.01},
            },
        }
    },
}
LAST = "version_0/checkpoints/last.ckpt"


class Result(NamedTuple):
    """What one command gave back."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The error lines."""
        return [line for line in self.err.splitlines() if line.startswith("vaebm: error:")]


def run(capsys: pytest.CaptureFixture[str], *args: object) -> Result:
    """Run `vaebm` with some arguments."""
    capsys.readouterr()
    code = main([str(arg) for arg in args])
    return Result(code, *capsys.readouterr())


def overlay(path: Path, settings: object) -> Path:
    """Write settings to a file that ``--config`` reads."""
    path.write_text(yaml.safe_dump(settings))
    return path


def fit(folder: Path, config: str, settings: object, *options: object) -> int:
    """Train with a shipped config under settings of the test; runs/ is made in `folder`."""
    with chdir(folder):
        small = overlay(folder / "small.yaml", settings)
        return main(["fit", "--config", config, "--config", str(small), *map(str, options)])


class Trained(NamedTuple):
    """Checkpoints of both stages on 25 Gaussians."""

    vae: Path
    ebm: Path


@functools.cache
def trained() -> Trained:
    """Tiny checkpoints, made by the command line once for all tests."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return train_both(folder)


def train_both(folder: Path) -> Trained:
    """Run stage 1 and stage 2 in a folder."""
    vae = folder / "runs/gaussians25_vae" / LAST
    ebm = folder / "runs/gaussians25_ebm" / LAST
    assert fit(folder, "gaussians25_vae", STAGE_1) == 0
    assert fit(folder, "gaussians25_ebm", STAGE_2, "--model.vae_checkpoint", vae) == 0
    return Trained(vae, ebm)
