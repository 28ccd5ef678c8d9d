"""Trainings that are interrupted, and go on with ``--ckpt_path last``."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import STAGE_2, overlay, run, trained
from tests.training import ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.checkpoints.atomic import write_atomically
from vaebm.checkpoints.io import AtomicCheckpointIO
from vaebm.checkpoints.last import last_checkpoint
from vaebm.checkpoints.reading import read_checkpoint
from vaebm.samplers import ReplayBuffer

WANDB = "lightning.pytorch.loggers.WandbLogger"
REPLAY = {"class_path": "vaebm.samplers.ReplayBuffer", "init_args": {"capacity": 120}}
SAVER = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "{step}", "every_n_train_steps": 1, "save_last": True},
}
AVERAGE = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}


def settings(steps: int) -> dict[str, Any]:
    """Stage 2 with persistent chains and averaged weights, saved at every step."""
    model = {"init_args": {**STAGE_2["model"]["init_args"], "replay": REPLAY}}  # type: ignore[index]
    trainer = {**STAGE_2["trainer"], "max_steps": steps, "callbacks": [AVERAGE, SAVER]}
    return {**STAGE_2, "model": model, "trainer": trainer}


def start(folder: Path, steps: int, *options: str) -> subprocess.Popen[str]:
    """Start a training that goes on from its last checkpoint."""
    folder.mkdir(exist_ok=True)
    small = overlay(folder / "small.yaml", settings(steps))
    args = ["fit", "--config", "gaussians25_ebm.yaml", "--config", str(small)]
    args += ["--model.vae_checkpoint", str(trained().vae), "--ckpt_path", "last"]
    return subprocess.Popen(
        [sys.executable, "-m", "vaebm.cli", *args, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.rglob("step=*.ckpt"))


def end_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    path = last_checkpoint([folder])
    assert path is not None
    return torch.load(path, weights_only=True)


def assert_same_end(first: Path, second: Path) -> None:
    ends = end_of(first), end_of(second)
    assert ends[0]["global_step"] == ends[1]["global_step"]
    for key in ("state_dict", "current_model_state"):
        assert same_weights(ends[0][key], ends[1][key])


def interrupted(
    folder: Path, number: signal.Signals, *options: str, child: bool = False
) -> tuple[int, str]:
    """Start a training of 400 steps, end it by a signal: its exit code and what it printed.

    With `child`, the process that it started gets the signal.
    """
    process = start(folder, 400, *options)
    while not checkpoints(folder):
        assert process.poll() is None
        time.sleep(0.02)
    if child:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {n: Path(f"/proc/{n}/cmdline").read_text() for n in children}
        (pid,) = (n for n, command in commands.items() if "fit" in command)
        os.kill(int(pid), number)
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    assert end_of(folder)["global_step"] < 400
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_saves_and_the_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, number: str, code: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole, 400).wait(120) == 0
    found, output = interrupted(parts, getattr(signal, number))
    assert found == code, output
    assert f"{number} ends this training at step" in output
    assert start(parts, 400).wait(120) == 0
    assert_same_end(whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("child", [False, True])
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(
    tmp_path: Path, child: bool
) -> None:
    both = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole, 400, *both).wait(120) == 0
    code, output = interrupted(parts, signal.SIGUSR1, *both, child=child)
    assert code == 138, output
    step = end_of(parts)["global_step"]
    chains = {path.name for path in parts.rglob(f"step={step}-rank=*.pt")}
    assert chains == {f"step={step}-rank={rank}.pt" for rank in (0, 1)}
    one = start(parts, 400)
    output, _ = one.communicate(timeout=60)
    assert one.returncode == 2
    assert "the chains of 2 processes, but this training has 1" in output
    assert start(parts, 400, *both).wait(120) == 0
    assert_same_end(whole, parts)


@pytest.mark.slow
def test_ctrl_c_tells_where_the_last_checkpoint_is(tmp_path: Path) -> None:
    code, output = interrupted(tmp_path, signal.SIGINT)
    assert code == 130, output
    assert "the last checkpoint is" in output


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(tmp_path: Path) -> None:
    """``VAEBM_KILLS=50`` for more of them; every step writes two checkpoints and the chains."""
    kills, steps = int(os.environ.get("VAEBM_KILLS", "3")), 400
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert start(whole, steps).wait(120) == 0
    chance = torch.Generator().manual_seed(0)
    done = 0
    while done < kills:
        process, before = start(parts, steps), len(checkpoints(parts))
        while len(checkpoints(parts)) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(float(torch.rand((), generator=chance)) * 1.5 / kills)
        number = (signal.SIGKILL, signal.SIGTERM)[done % 2]
        process.send_signal(number)
        assert process.wait(60) in (-9, 143), process.communicate()[0]
        done += 1
    assert end_of(parts)["global_step"] < steps
    assert start(parts, steps).wait(120) == 0
    assert_same_end(whole, parts)
    assert len(list(parts.rglob(".*.part"))) <= 2 * kills


def test_a_checkpoint_is_there_in_full_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    write_atomically(path, {"step": 1})

    def fail(content: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.ckpt"]


def test_every_training_writes_so(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, saver(tmp_path, 2))
    trainer.fit(ebm_stage(), toy_data())
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert {p.suffix for p in tmp_path.iterdir()} == {".ckpt", ".md"}


def test_a_full_disk_ends_the_training_in_one_line_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay(tmp_path / "small.yaml", settings(6))
    vae = trained().vae
    sync, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    args = ("fit", "--config", "gaussians25_ebm", "--config", "small.yaml")
    result = run(capsys, *args, "--model.vae_checkpoint", vae)
    assert result.code == 1
    assert len(result.errors) == 1
    assert "No space left on device" in result.errors[0]
    assert end_of(tmp_path)["global_step"] > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems can be mounted by root alone")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("config", ["gaussians25_ebm", "gaussians25_ebm_persistent"])
def test_a_disk_that_runs_full_ends_the_training_in_one_line(
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
) -> None:
    vae = trained().vae
    monkeypatch.chdir(small_disk)
    every = settings(10_000)
    all_of_them = {**SAVER["init_args"], "save_top_k": -1}  # type: ignore[dict-item]
    every["trainer"]["callbacks"] = [{**SAVER, "init_args": all_of_them}]
    overlay(small_disk / "small.yaml", every)
    args = ("fit", "--config", config, "--config", "small.yaml")
    result = run(capsys, *args, "--model.vae_checkpoint", vae)
    assert (result.code, len(result.errors)) == (1, 1), result.err
    assert "No space left on device; make room" in result.errors[0]
    found = list(small_disk.glob("runs/*/*/checkpoints/*.ckpt"))
    assert found
    assert not list(small_disk.rglob("*.part"))
    for path in found:
        assert read_checkpoint(path)["global_step"] > 0


def test_a_file_that_grows_too_large_is_named_and_the_old_one_kept(tmp_path: Path) -> None:
    script = """
import resource, torch
from pathlib import Path
from vaebm.checkpoints.atomic import write_atomically
write_atomically(Path("a.ckpt"), 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically(Path("a.ckpt"), torch.zeros(100_000))
except OSError as error:
    print(error, torch.load("a.ckpt"))
"""
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout == "[Errno 27] File too large: 'a.ckpt' 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_chains_of_other_processes_are_dealt_out() -> None:
    states = []
    for rank in range(3):
        buffer = ReplayBuffer(capacity=4)
        for time_ in range(6):  # the first two are overwritten
            buffer.push(torch.tensor([[10.0 * time_ + rank]]))
        states.append(buffer.state_dict())
    shares = []
    for rank in range(2):
        buffer = ReplayBuffer(capacity=5)
        buffer.load_share(states, rank, 2)
        shares.append(buffer.state_dict()["ring"].flatten().tolist())  # type: ignore[union-attr]
    assert len(shares[0]) == len(shares[1]) == 5
    # The newest ten of twelve, each once.
    assert sorted(shares[0] + shares[1]) == [20, 30, 31, 32, 40, 41, 42, 50, 51, 52]
