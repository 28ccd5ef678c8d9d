"""Real offline Weights & Biases runs and sweeps, read back from the files that they leave."""

import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import yaml

from tests.runs import STAGE_1, STAGE_2, fit, overlay, trained
from vaebm.config_files import shipped_sweeps

wandb = pytest.importorskip("wandb", reason="the wandb extra is not installed")
LOGGER = ("--trainer.logger", "WandbLogger", "--trainer.logger.project", "tests")
OFFLINE = (*LOGGER, "--trainer.logger.offline=true")
GRID = {
    "class_path": "vaebm.callbacks.SampleGrid",
    "init_args": {"num_samples": 20, "every_n_validations": 1},
}
SAVER = STAGE_1["trainer"]["callbacks"][-1]  # type: ignore[index]


@pytest.fixture(autouse=True)
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    for kind in ("DATA", "CACHE", "CONFIG"):  # not the user's
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / f"wandb_{kind.lower()}"))
    yield
    wandb.teardown()  # its process keeps the working directory of the test that started it


# Reading


def chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of the chunks of a log in LevelDB's format: 1 full, 2 first, 3, 4 last."""
    place, block = 7, 32768
    while place + 7 <= len(data):
        left = block - place % block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            return  # it is being written
        yield kind, data[place + 7 : place + 7 + length]
        place += 7 + length


def records(folder: Path) -> list[Any]:
    """The records of the one offline run below a folder."""
    wandb.finish()  # until then nothing is in the file, and it returns before all is
    (path,) = folder.rglob("run-*.wandb")
    for _ in range(100):
        found = list(parsed(path.read_bytes()))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.2)
    raise AssertionError(f"{path} ends without an exit record")


def parsed(data: bytes) -> Iterator[Any]:
    """The whole records of a log."""
    from wandb.proto.wandb_internal_pb2 import Record

    whole = b""
    for kind, content in chunks(data):
        whole = content if kind in (1, 2) else whole + content
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record


class Run:
    """What an offline run holds: `config`, `metrics` by name, logged files and artifacts."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = {}
        self.metrics: dict[str, list[Any]] = {}
        self.artifacts: dict[str, list[str]] = {}
        for record in records(folder):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self._configure(record.run.config.update)
            elif kind == "config":
                self._configure(record.config.update)
            elif kind == "history":
                for item in record.history.item:
                    key = item.key or ".".join(item.nested_key)
                    self.metrics.setdefault(key, []).append(json.loads(item.value_json))
            elif kind in ("artifact", "request") and self._artifact(record) is not None:
                artifact = self._artifact(record)
                names = [entry.path for entry in artifact.manifest.contents]
                self.artifacts.setdefault(artifact.type, []).extend(names)

    def _configure(self, update: Any) -> None:
        self.config |= {item.key: json.loads(item.value_json) for item in update if item.key}

    @staticmethod
    def _artifact(record: Any) -> Any:
        if record.WhichOneof("record_type") == "artifact":
            return record.artifact
        if record.request.WhichOneof("request_type") == "log_artifact":
            return record.request.log_artifact.artifact
        return None


def settings(*callbacks: object) -> dict[str, Any]:
    trainer = {**STAGE_1["trainer"], "limit_val_batches": 1, "callbacks": list(callbacks)}
    return {**STAGE_1, "trainer": trainer}


# Runs


def test_offline_run_holds_metrics_config_and_a_picture(tmp_path: Path) -> None:
    assert fit(tmp_path, "gaussians25_vae", settings(GRID), *OFFLINE) == 0
    run = Run(tmp_path)
    assert len(run.metrics["train/elbo"]) == 4
    assert len(run.metrics["val/elbo"]) == 1
    assert set(run.metrics["trainer/global_step"]) == {0, 1, 2, 3, 4}
    assert run.config["vae"]["init_args"]["latent_dim"] == 4
    assert run.config["batch_size"] == 50
    assert run.metrics["samples._type"] == ["images/separated"]
    ((name,),) = run.metrics["samples.filenames"]
    (picture,) = tmp_path.rglob(Path(name).name)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("runs/tests/*/samples/step=*.png"))


def test_config_is_saved_beside_the_checkpoints_and_as_an_artifact(tmp_path: Path) -> None:
    assert fit(tmp_path, "gaussians25_vae", settings(SAVER), *OFFLINE) == 0
    run = Run(tmp_path)
    assert run.artifacts == {"config": ["config.yaml"]}
    (path,) = tmp_path.glob("runs/tests/*/config.yaml")
    assert (path.parent / "checkpoints/last.ckpt").exists()
    saved = yaml.safe_load(path.read_text())
    assert saved["model"]["init_args"]["vae"]["init_args"]["latent_dim"] == 4
    assert saved["trainer"]["max_steps"] == 4


def test_second_run_does_not_touch_the_config_of_the_first(tmp_path: Path) -> None:
    for seed in (1, 2):
        options = (*OFFLINE, "--seed_everything", seed)
        assert fit(tmp_path, "gaussians25_vae", settings(), *options) == 0
        wandb.finish()
    saved = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("runs/tests/*/config.yaml")]
    assert sorted(config["seed_everything"] for config in saved) == [1, 2]


def test_checkpoints_are_artifacts_by_a_flag(tmp_path: Path) -> None:
    log = (*LOGGER, "--trainer.logger.mode", "offline", "--trainer.logger.log_model", "all")
    assert fit(tmp_path, "gaussians25_vae", settings(SAVER), *log) == 0
    artifacts = Run(tmp_path).artifacts
    assert {kind: set(files) for kind, files in artifacts.items()} == {
        "config": {"config.yaml"},
        "model": {"model.ckpt"},
    }


def test_tensorboard_holds_metrics_and_a_picture(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=runs")
    assert fit(tmp_path, "gaussians25_vae", settings(GRID), *board) == 0
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = reader.EventAccumulator(str(path)).Reload()
    assert "val/elbo" in events.Tags()["scalars"]
    assert events.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")


# Sweeps


def arguments(sweep: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a server would choose: the last of the listed values, the smallest of a range."""
    return {
        name: {"value": choice["values"][-1] if "values" in choice else choice["min"]}
        for name, choice in sweep["parameters"].items()
    }


def command_of_agent(sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line that wandb's own agent starts for a run of a sweep."""
    from wandb import wandb_agent

    started: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", Process)
    agent = wandb_agent.Agent(api=None, queue=Queue(), sweep_id="tests")
    agent._sweep_command = sweep["command"]
    agent._command_run({"run_id": "run1", "program": None, "args": arguments(sweep)})
    return started[0]


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder and an environment for an agent, which sets variables of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("WANDB_SWEEP_ID", "tests")
    monkeypatch.setenv("DATA", "data")
    monkeypatch.setenv("VAE_CHECKPOINT", str(trained().vae))
    return tmp_path


def test_sweeps_are_shipped() -> None:
    names = {path.stem for path in shipped_sweeps()}
    assert names == {"cifar10_ebm", "digits_ebm", "digits_ebm_samplers"}


@pytest.mark.parametrize("path", shipped_sweeps(), ids=lambda path: path.stem)
def test_command_of_a_sweep_is_understood(
    path: Path, apart: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vaebm.cli import main

    sweep = yaml.safe_load(path.read_text())
    env, program, *args = command_of_agent(sweep, monkeypatch)
    assert (env, program) == ("/usr/bin/env", "vaebm")
    assert main([*args, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    for name, choice in arguments(sweep).items():
        *groups, last = name.split(".")
        place = config
        for group in groups:
            place = place[group]
            place = place.get("init_args", place)
        found = place[last]
        found = found["class_path"].split(".")[-1] if isinstance(found, dict) else found
        assert found == choice["value"], name


def test_agent_runs_a_sweep_of_stage_2(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped sweep of samplers on a smaller problem, in a process that the agent starts."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    (path,) = (path for path in shipped_sweeps() if path.stem == "digits_ebm_samplers")
    sweep = yaml.safe_load(path.read_text())
    trainer = {**STAGE_2["trainer"], "limit_val_batches": 1, "callbacks": [GRID, SAVER]}
    model = {"init_args": {"energy": STAGE_2["model"]["init_args"]["energy"]}}
    small = overlay(apart / "small.yaml", {**STAGE_2, "model": model, "trainer": trainer})
    fixed = [part for part in sweep["command"] if "callbacks" not in part]
    at = fixed.index("--config=digits_ebm.yaml")
    fixed[at : at + 1] = ["--config=gaussians25_ebm.yaml", f"--config={small}"]
    from wandb import wandb_agent

    agent = wandb_agent.Agent(api=None, queue=Queue(), sweep_id="tests")
    agent._sweep_command = fixed
    agent._command_run({"run_id": "run1", "program": None, "args": arguments(sweep)})
    assert agent._run_processes["run1"].wait() == 0
    run = Run(apart)
    assert run.config["sampler"]["class_path"].endswith(".HMCSampler")
    assert run.config["sampler"]["init_args"]["step_size"] == 0.1
    assert run.config["model.sampler"] == "HMCSampler"
    assert len(run.metrics["train/energy_gap"]) == 4
    assert "val/energy_data" in run.metrics
