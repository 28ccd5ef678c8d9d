"""Folders and files that may not be written or read: one line, and nothing lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.runs import STAGE_1, overlay, trained

OBEDIENT = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root, without its powers


class Failure(NamedTuple):
    """A command that failed: exit code and its one error line."""

    code: int
    line: str


Refused = Callable[..., Failure]


@pytest.fixture(scope="module")
def prefix() -> list[str]:
    """What makes a program heed rights."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv") or subprocess.run([*OBEDIENT, "true"], check=False).returncode:
        pytest.skip("root heeds no rights, and setpriv cannot make it")
    return OBEDIENT


@pytest.fixture
def refused(prefix: list[str], tmp_path: Path) -> Refused:
    """Runs a command that must fail with one line, in a folder of the test."""

    def check(*args: object) -> Failure:
        result = subprocess.run(
            [*prefix, sys.executable, "-m", "vaebm.cli", *map(str, args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        (line,) = (line for line in result.stderr.splitlines() if "error:" in line)
        assert "Traceback" not in result.stderr
        return Failure(result.returncode, line)

    return check


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written to."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)


def small(folder: Path) -> str:
    return str(overlay(folder / "small.yaml", STAGE_1))


def test_training_where_logs_cannot_be_written(
    refused: Refused, locked: Path, tmp_path: Path
) -> None:
    configs = ("--config", "gaussians25_vae", "--config", small(tmp_path))
    code, line = refused("fit", *configs, "--trainer.logger.save_dir", "locked/runs")
    assert code == 1
    assert "locked/runs: Permission denied; choose another place" in line


def test_training_without_a_logger(refused: Refused, locked: Path, tmp_path: Path) -> None:
    configs = ("--config", "gaussians25_vae", "--config", small(tmp_path))
    root = ("--trainer.logger", "false", "--trainer.default_root_dir", "locked")
    code, line = refused("fit", *configs, *root)
    assert code == 2
    assert "--trainer.default_root_dir" in line
    assert "cannot be written to" in line


def test_checkpoints_that_cannot_be_written(refused: Refused, locked: Path, tmp_path: Path) -> None:
    (locked / "last.ckpt").touch()
    saver = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "locked"}}
    saver["init_args"] |= {"every_n_train_steps": 2, "save_last": True}  # type: ignore[operator]
    trainer = {**STAGE_1["trainer"], "callbacks": [saver]}
    path = overlay(tmp_path / "small.yaml", {**STAGE_1, "trainer": trainer})
    code, line = refused("fit", "--config", "gaussians25_vae", "--config", path)
    assert code == 1
    assert "Permission denied" in line
    assert [path.name for path in locked.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("command", ["test", "predict"])
def test_evaluation_is_refused_before_the_work(
    refused: Refused, locked: Path, command: str
) -> None:
    root = ("--trainer.default_root_dir", "locked")
    code, line = refused(command, "--ckpt_path", trained().ebm, *root)
    assert code in (1, 2)
    assert "locked/lightning_logs" in line


def test_samples_are_refused_before_the_work(refused: Refused, locked: Path) -> None:
    code, line = refused("sample", "--ckpt_path", trained().ebm, "--output", "locked/samples")
    assert code == 2
    assert "locked cannot be written to" in line


@pytest.mark.parametrize("what", ["checkpoint", "config", "data"])
def test_what_cannot_be_read_is_named(refused: Refused, tmp_path: Path, what: str) -> None:
    path = tmp_path / ("secret.yaml" if what == "config" else "secret")
    shutil.copy(trained().vae, path) if what != "data" else (path / "a").mkdir(parents=True)
    path.chmod(0)
    options = {
        "checkpoint": ("sample", "--ckpt_path", path),
        "config": ("fit", "--config", path),
        "data": ("fit", "--config", "cifar10_vae_small", "--data", "ImageFolderDataModule",
                 "--data.root", path, "--data.image_size", 32),
    }  # fmt: skip
    code, line = refused(*options[what])
    path.chmod(0o755)
    assert code in (1, 2)
    assert "secret" in line
