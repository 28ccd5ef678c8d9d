"""Model cards stand beside checkpoints, tell the truth and never overwrite anything else."""

import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from tests.runs import trained
from vaebm.checkpoints.io import AtomicCheckpointIO
from vaebm.checkpoints.model_card import MARK, commit_of

CONTENT = {"state_dict": {"vae.a": torch.zeros(3), "vae.b": torch.zeros(2, 2)}}


def test_every_checkpoint_has_a_card() -> None:
    folder = trained().ebm.parent
    names = {path.stem for path in folder.glob("*.ckpt")}
    assert {path.stem for path in folder.glob("*.md")} == names >= {"last", "step=4"}


def test_card_holds_config_data_figures_and_version() -> None:
    checkpoint = torch.load(trained().ebm, weights_only=True)
    text = trained().ebm.with_suffix(".md").read_text()
    config = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert config["model"]["class_path"] == "vaebm.ebm_stage.EBMStage"
    stored = checkpoint["hyper_parameters"]
    assert config["model"]["init_args"] == {k: v for k, v in stored.items() if k[0] != "_"}
    assert config["data"]["class_path"] == "vaebm.datamodules.Gaussians25DataModule"
    assert checkpoint["metrics"]["train/energy_gap"] == pytest.approx(
        float(text.split("| train/energy_gap | ")[1].split(" |")[0]), rel=1e-4
    )
    assert "| step, epoch | 4, 0 |" in text
    assert "commit" in text.split("| vaebm | ")[1].splitlines()[0]


def test_card_counts_the_numbers_of_each_network(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert "| weights | vae 7 |" in (tmp_path / "a.md").read_text()


def test_card_goes_with_its_checkpoint(tmp_path: Path) -> None:
    files = AtomicCheckpointIO()
    files.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    files.remove_checkpoint(tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_other_files_of_that_name_stay(tmp_path: Path) -> None:
    notes = tmp_path / "a.md"
    notes.write_text("my notes")
    files = AtomicCheckpointIO()
    files.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    files.remove_checkpoint(tmp_path / "a.ckpt")
    assert notes.read_text() == "my notes"
    notes.write_text(MARK + "an old card")
    files.save_checkpoint(CONTENT, tmp_path / "a.ckpt")
    assert "an old card" not in notes.read_text()


def test_commit_is_the_one_of_the_working_copy(tmp_path: Path) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c")
    assert commit_of(tmp_path) is None
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit_of(tmp_path) == head.stdout.strip()
