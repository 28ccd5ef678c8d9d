"""``--ckpt_path last``: which checkpoint it is, and that trainings leave each other's alone."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.runs import STAGE_1, STAGE_2, Result, fit, overlay, run, trained
from tests.training import ebm_stage, saver, small_trainer, toy_data
from vaebm.checkpoints.last import CHOSEN, agreed, folders_of, last_checkpoint
from vaebm.checkpoints.reading import read_checkpoint
from vaebm.errors import UsageError
from vaebm.samplers import ReplayBuffer

WANDB = "lightning.pytorch.loggers.WandbLogger"
Capture = pytest.CaptureFixture[str]


def stage_1(capsys: Capture, folder: Path, *options: object, steps: int = 4) -> Result:
    """Train a VAE in a folder."""
    small = overlay(folder / "small.yaml", STAGE_1)
    configs = ("--config", "gaussians25_vae", "--config", small)
    root = ("--trainer.logger.save_dir", folder / "runs", "--trainer.max_steps", steps)
    return run(capsys, "fit", *configs, *root, *options)


def persistent(folder: Path, seed: int, steps: int, ckpt_path: Path | None = None) -> torch.Tensor:
    """Train with persistent chains, saved every second step; the chains at the end."""
    stage = ebm_stage(ReplayBuffer(capacity=37), seed=seed)
    trainer = small_trainer(folder, saver(folder, 2), max_steps=steps)
    trainer.fit(stage, toy_data(), ckpt_path=ckpt_path, weights_only=True)
    assert stage.replay is not None
    return stage.replay.state_dict()["ring"]


# Which one


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    small_trainer(tmp_path, saver(tmp_path, 2), max_steps=4).fit(ebm_stage(), toy_data())
    for name in ("last.ckpt", "step=4.ckpt"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="step=4.ckpt.*an older one is tried"):
        found = last_checkpoint([tmp_path])
    assert found == tmp_path / "step=2.ckpt"


@pytest.mark.parametrize(
    ("trainer", "folder"),
    [
        ({"logger": {"init_args": {"save_dir": "runs", "name": "a"}}}, "runs/a"),
        ({"logger": [{"init_args": {"save_dir": "runs", "name": "a"}}]}, "runs/a"),
        ({"logger": {"class_path": WANDB, "init_args": {"save_dir": "w", "project": "p"}}}, "w/p"),
        ({"logger": {"class_path": WANDB, "init_args": {"save_dir": "w", "name": "n"}}}, "w/env"),
        ({"logger": False, "default_root_dir": "here"}, "here/checkpoints"),
        ({"logger": None}, "lightning_logs"),
        ({}, "lightning_logs"),
    ],
)
def test_the_folder_of_a_run_is_its_logger_s(
    monkeypatch: pytest.MonkeyPatch, trainer: dict[str, Any], folder: str
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "env")
    assert folders_of(trainer) == [Path(folder)]
    saver = {"init_args": {"dirpath": "d"}}
    assert folders_of({**trainer, "callbacks": [saver]}) == [Path(folder), Path("d")]


def test_without_a_checkpoint_the_training_starts_at_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overlay(tmp_path / "small.yaml", STAGE_2)
    args = ["fit", "--config", "gaussians25_ebm", "--config", "small.yaml", "--ckpt_path", "last"]
    assert run(capsys, *args, "--model.vae_checkpoint", trained().vae).code == 0
    # The VAE comes from the checkpoint then.
    assert run(capsys, *args, "--trainer.max_steps", 6).code == 0
    path = last_checkpoint([tmp_path])
    assert path is not None
    assert read_checkpoint(path)["global_step"] == 6


@pytest.mark.parametrize("command", ["test", "sample", "predict"])
def test_last_is_for_trainings(capsys: pytest.CaptureFixture[str], command: str) -> None:
    result = run(capsys, command, "--config", "gaussians25_ebm", "--ckpt_path", "last")
    assert result.code == 2
    assert len(result.errors) == 1


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    small_trainer(tmp_path, saver(tmp_path, 2), max_steps=2).fit(ebm_stage(), toy_data())
    (tmp_path / "sharded.ckpt").mkdir()
    (tmp_path / "lost.ckpt").symlink_to("nowhere")
    found = last_checkpoint([tmp_path])
    assert found is not None
    assert read_checkpoint(found)["global_step"] == 2


def test_checkpoints_of_the_other_stage_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Capture
) -> None:
    one = ("--trainer.logger", "CSVLogger", "--trainer.logger.name", "shared")
    root = ("--trainer.logger.save_dir", tmp_path)
    assert fit(tmp_path, "gaussians25_vae", STAGE_1, *one, *root) == 0
    vae = ("--model.vae_checkpoint", tmp_path / "shared/version_0/checkpoints/last.ckpt")
    last = ("--ckpt_path", "last")
    assert fit(tmp_path, "gaussians25_ebm", STAGE_2, *one, *root, *vae, *last) == 0
    assert "the training starts at its beginning" in caplog.text
    capsys.readouterr()
    assert fit(tmp_path, "gaussians25_vae", STAGE_1, *one, *root, *last) == 0
    assert "shared/version_0/checkpoints/last.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_checkpoint_whose_chains_are_lost_is_passed_over(tmp_path: Path, damage: str) -> None:
    persistent(tmp_path, 0, 4)
    chains = tmp_path / "chains/step=4-rank=0.pt"
    chains.unlink() if damage == "gone" else chains.write_bytes(chains.read_bytes()[:50])
    with pytest.warns(UserWarning, match="its chains are missing or damaged"):
        found = last_checkpoint([tmp_path])
    assert found == tmp_path / "step=2.ckpt"


def test_chains_of_a_process_that_are_lost_are_missed(tmp_path: Path) -> None:
    persistent(tmp_path, 0, 4)
    path = tmp_path / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["callbacks"]["ChainCheckpoint"]["processes"] = 2
    torch.save(content, path)
    with pytest.raises(UsageError, match="holds the chains of 1 of 2 processes for step 4"):
        persistent(tmp_path, 0, 6, path)


def test_processes_of_one_training_go_on_from_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    chosen, other = tmp_path / "a", tmp_path / "b"
    assert agreed(lambda: chosen) == chosen
    assert agreed(lambda: other) == other  # a second training in this process
    pid = os.getpid()
    monkeypatch.setattr(os, "getppid", lambda: pid)
    assert agreed(lambda: chosen) == chosen  # a program that the process started
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert agreed(lambda: other) == chosen  # a process of the same training


def test_processes_with_different_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = small_trainer(tmp_path)
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda *_, **__: "that of the first")
    with pytest.raises(UsageError, match="would go on from different checkpoints"):
        trainer.fit(ebm_stage(), toy_data())


def test_a_training_that_has_ended_says_so_and_makes_no_files(
    tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert stage_1(capsys, tmp_path).code == 0
    before = set(tmp_path.rglob("*"))
    result = stage_1(capsys, tmp_path, "--ckpt_path", "last")
    assert result.code == 0
    assert "nothing is left to do: of 4 steps 4 are done" in caplog.text
    assert result.out.startswith("checkpoint: ")
    assert set(tmp_path.rglob("*")) == before


# Others' files


class Stop(Callback):
    """Sends a signal to this process."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """At the third step."""
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_leaves_the_last_checkpoint_of_another_training(tmp_path: Path) -> None:
    small_trainer(tmp_path, saver(tmp_path, 2), max_steps=4).fit(ebm_stage(), toy_data())
    trainer = small_trainer(tmp_path, Stop(), saver(tmp_path, 50), max_steps=4)
    with pytest.raises(SystemExit) as stop:
        trainer.fit(ebm_stage(seed=9), toy_data())
    assert stop.value.code == 143
    steps = {n: read_checkpoint(tmp_path / n)["global_step"] for n in ("last.ckpt", "last-v1.ckpt")}
    assert steps == {"last.ckpt": 4, "last-v1.ckpt": 3}


def test_trainings_in_one_folder_keep_their_chains_apart(tmp_path: Path) -> None:
    first = persistent(tmp_path, 0, 4)
    last = tmp_path / "last.ckpt"
    content = last.read_bytes()
    second = persistent(tmp_path, 9, 4)
    assert not torch.equal(first, second)
    last.write_bytes(content)  # of either training that Lightning leaves under this name
    whole = persistent(tmp_path / "whole", 0, 6)
    assert torch.equal(persistent(tmp_path, 0, 6, last), whole)
    assert {path.name for path in tmp_path.glob("chains*")} == {"chains", "chains-v1"}


def test_figures_of_an_earlier_part_of_a_run_are_kept(tmp_path: Path, capsys: Capture) -> None:
    version = ("--trainer.logger.version", 0, "--ckpt_path", "last")
    for steps in (4, 8):
        assert stage_1(capsys, tmp_path, *version, steps=steps).code == 0
    (folder,) = tmp_path.glob("runs/*/version_0")
    rows = [(folder / name).read_text().splitlines() for name in ("metrics-v1.csv", "metrics.csv")]
    assert [len(lines) for lines in rows] == [5, 5]


def test_a_config_that_is_the_user_s_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = overlay(tmp_path / "config.yaml", STAGE_1)
    text = config.read_text()
    result = run(
        capsys, "fit", "--config=gaussians25_vae", "--config=config.yaml", "--trainer.logger=false"
    )
    assert result.code == 0
    assert config.read_text() == text
    assert (tmp_path / "checkpoints/config.yaml").exists()


def test_a_trial_run_leaves_no_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    assert stage_1(capsys, tmp_path, "--trainer.fast_dev_run", "true").code == 0
    assert not list(tmp_path.rglob("*.ckpt"))
