"""Damaged configs and checkpoints: always a message, never a traceback, executed code or a hang.

``VAEBM_FUZZ=10 pytest tests/test_fuzz.py -m slow`` makes ten times as many as the usual test.
"""

import logging
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import fuzz
from tests.runs import STAGE_1, STAGE_2, Result, run, trained
from vaebm.config_files import shipped_configs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TIMES = int(os.environ.get("VAEBM_FUZZ", "1"))
CONFIGS, CHECKPOINTS, EXPORTS = 200 * TIMES, 60 * TIMES, 20 * TIMES
SECONDS = 60
QUICK = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--trainer.accelerator", "cpu")
SILENT = ("--trainer.enable_progress_bar", "false", "--trainer.devices", 1)
TOYS = {
    "gaussians25_vae": STAGE_1,
    "gaussians25_ebm": STAGE_2,
    "gaussians25_ebm_persistent": STAGE_2,
}


class Hang(BaseException):
    """A command that takes too long; no command catches it."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `Hang` in what takes too long inside."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def merged(base: Any, over: Any) -> Any:
    """Settings with others laid over them."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}
    return over


def complaint(folder: Path, result: Result) -> str | None:
    """What is wrong with how a command ended."""
    if Path(fuzz.EXECUTED).exists() or (folder / fuzz.EXECUTED).exists():
        return "code was executed"
    if "Traceback" in result.err:
        return "a traceback"
    if result.code not in (0, 1, 2):
        return f"exit code {result.code}"
    if result.code and (len(result.errors) != 1 or len(result.errors[0]) < 25):
        return f"no message of one line: {result.errors}"
    return None


class Trial:
    """Runs commands on damaged files and collects what is wrong with their ends."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.wrong: list[str] = []
        self.codes: dict[int, int] = {}

    def __call__(self, name: str, *args: object) -> None:
        """Run one command; `name` is what a report calls it."""
        try:
            with time_limit():
                result = run(self.capsys, *args)
        except Hang:
            self.wrong.append(f"{name}: more than {SECONDS} s")
            return
        except Exception as error:
            self.wrong.append(f"{name}: raised {error!r}")
            return
        self.codes[result.code] = self.codes.get(result.code, 0) + 1
        found = complaint(self.folder, result)
        if found:
            self.wrong.append(f"{name}: {found}: {result.err[-300:]}")


@pytest.fixture
def trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Trial:
    """A folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    # Handlers that an earlier test set up write to its streams, which are closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    return Trial(tmp_path, capsys)


def test_damaged_configs(trial: Trial) -> None:
    toys = {
        name: yaml.safe_dump(
            merged(yaml.safe_load(shipped_configs()[f"{name}.yaml"].read_text()), settings)
        )
        for name, settings in TOYS.items()
    }
    large = sorted(set(shipped_configs()) - set(TOYS))
    path = trial.folder / "config.yaml"
    for seed in range(CONFIGS):
        chance = random.Random(seed)
        # What asks for a large training is read only.
        if chance.random() < 0.75:
            name = chance.choice(list(toys))
            text = toys[name]
            args = [*QUICK, *SILENT]
            if name != "gaussians25_vae" and chance.random() < 0.8:
                args += ["--model.vae_checkpoint", trained().vae]
        else:
            text = shipped_configs()[chance.choice(large)].read_text()
            args = ["--print_config"]
        path.write_bytes(fuzz.changed_config(text, chance))
        trial(f"config {seed}", "fit", "--config", path, *args)
    assert not trial.wrong, "\n".join(trial.wrong)
    assert trial.codes[2] > CONFIGS / 4


def test_damaged_checkpoints(trial: Trial) -> None:
    toys, path = trained(), trial.folder / "damaged.ckpt"
    for stage, settings in ((1, STAGE_1), (2, STAGE_2)):
        (trial.folder / f"stage{stage}.yaml").write_text(yaml.safe_dump(settings))
    fit = [("--config", f"gaussians25_{name}.yaml") for name in ("vae", "ebm")]
    vae = ("--model.vae_checkpoint", toys.vae)
    commands: list[tuple[object, ...]] = [
        ("sample", "--ckpt_path", path, "--num_samples", 2, "--output", "out"),
        ("test", "--ckpt_path", path, *fit[1], "--config", "stage2.yaml", *SILENT),
        ("fit", *fit[1], "--config", "stage2.yaml", *vae, *SILENT, "--ckpt_path", path),
        ("fit", *fit[0], "--config", "stage1.yaml", *SILENT, "--ckpt_path", path),
        ("fit", *fit[1], "--config", "stage2.yaml", *QUICK, *SILENT, *vae[:1], path),
        ("convert", path, "--output", "converted.ckpt"),
    ]
    contents = [toys.vae.read_bytes(), toys.ebm.read_bytes()]
    for seed in range(CHECKPOINTS):
        chance = random.Random(seed)
        path.write_bytes(fuzz.changed_checkpoint(chance.choice(contents), chance))
        trial(f"checkpoint {seed}", *chance.choice(commands))
    assert not trial.wrong, "\n".join(trial.wrong)
    assert trial.codes[1] + trial.codes[2] > CHECKPOINTS / 4


def test_damaged_exports(trial: Trial) -> None:
    path, whole = trial.folder / "damaged.safetensors", trial.folder / "whole.safetensors"
    small, vae = trial.folder / "small.yaml", trained().vae
    small.write_text(yaml.safe_dump(STAGE_2))
    fit = ("fit", "--config", "gaussians25_ebm.yaml", "--config", small, *QUICK, *SILENT)
    commands: list[tuple[object, ...]] = [
        ("sample", "--ckpt_path", path, "--num_samples", 2, "--output", "out"),
        (*fit, "--model.vae_checkpoint", path),
        (*fit, "--model.vae_checkpoint", vae, "--ckpt_path", path),
    ]
    for seed in range(EXPORTS):
        chance = random.Random(seed)
        whole.unlink(missing_ok=True)
        run(trial.capsys, "export", chance.choice(trained()), "--output", whole)
        path.write_bytes(fuzz.changed_export(whole, chance))
        trial(f"export {seed}", *chance.choice(commands))
    assert not trial.wrong, "\n".join(trial.wrong)
    assert trial.codes[1] + trial.codes[2] > EXPORTS / 4
