"""Persistent chains on disk: written whole, kept twice, refused when they do not belong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch

from tests.training import ebm_stage, saver, small_trainer, toy_data
from vaebm.checkpoints.chains import ChainCheckpoint
from vaebm.checkpoints.stop_on_signal import StopOnSignal
from vaebm.errors import DataError, UsageError
from vaebm.samplers import ReplayBuffer


@pytest.fixture
def replay() -> ReplayBuffer:
    buffer = ReplayBuffer(capacity=6)
    buffer.push(torch.randn(4, 3))
    return buffer


def write(callback: ChainCheckpoint, folder: Path, step: int, rank: int = 0) -> None:
    """Save for a step."""
    # Of several processes the first one chooses the folder.
    strategy = SimpleNamespace(broadcast=lambda _: str(folder / "chains"), barrier=lambda: None)
    trainer: Any = SimpleNamespace(
        global_rank=rank,
        world_size=1,
        strategy=strategy,
        checkpoint_callback=None,
        default_root_dir=folder,
    )
    callback.on_save_checkpoint(trainer, None, {"global_step": step})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "chains").iterdir())


def train(folder: Path, ckpt_path: Path | None = None, max_steps: int = 8) -> None:
    """Train with persistent chains, saved every second step."""
    trainer = small_trainer(folder, saver(folder, 2), max_steps=max_steps)
    stage = ebm_stage(ReplayBuffer(capacity=37))
    trainer.fit(stage, toy_data(), ckpt_path=ckpt_path, weights_only=True)


def test_last_two_files_are_kept(replay: ReplayBuffer, tmp_path: Path) -> None:
    callback = ChainCheckpoint(replay)
    for step in (2, 4, 10):
        write(callback, tmp_path, step)
    assert names(tmp_path) == ["step=10-rank=0.pt", "step=4-rank=0.pt"]


def test_files_of_other_ranks_are_left_alone(replay: ReplayBuffer, tmp_path: Path) -> None:
    write(ChainCheckpoint(replay), tmp_path, 1, rank=1)
    for step in (2, 4, 6):
        write(ChainCheckpoint(replay), tmp_path, step)
    assert "step=1-rank=1.pt" in names(tmp_path)


def test_interrupted_writing_leaves_the_earlier_files(
    replay: ReplayBuffer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = ChainCheckpoint(replay)
    for step in (2, 4):
        write(callback, tmp_path, step)

    def full_disk(value: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        write(callback, tmp_path, 6)
    assert [name for name in names(tmp_path) if name.endswith(".pt")] == [
        "step=2-rank=0.pt",
        "step=4-rank=0.pt",
    ]


def test_stored_chains_are_the_buffer(replay: ReplayBuffer, tmp_path: Path) -> None:
    write(ChainCheckpoint(replay), tmp_path, 2)
    stored = torch.load(tmp_path / "chains/step=2-rank=0.pt", weights_only=True)
    assert torch.equal(stored["ring"], replay.state_dict()["ring"])


def test_stage_with_a_buffer_brings_the_callback() -> None:
    callbacks = ebm_stage(ReplayBuffer()).configure_callbacks()
    assert [type(callback) for callback in callbacks] == [StopOnSignal, ChainCheckpoint]


def test_stage_without_a_buffer_does_not() -> None:
    assert [type(callback) for callback in ebm_stage().configure_callbacks()] == [StopOnSignal]


def test_resume_from_a_step_without_chains_is_refused_in_one_line(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(UsageError, match=r"checkpoint is of step 2: resume from") as refused:
        train(tmp_path, tmp_path / "step=2.ckpt")
    assert "\n" not in str(refused.value)


def test_resume_without_any_chains_warns_and_starts_them_afresh(tmp_path: Path) -> None:
    train(tmp_path)
    lonely = tmp_path / "elsewhere" / "last.ckpt"
    lonely.parent.mkdir()
    (tmp_path / "last.ckpt").rename(lonely)
    with pytest.warns(UserWarning, match="no chains beside the checkpoint"):
        train(tmp_path, lonely, max_steps=10)


def test_resume_with_another_capacity_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    stage = ebm_stage(ReplayBuffer(capacity=36))
    with pytest.raises(UsageError, match="capacity 37, the buffer's is 36"):
        small_trainer(tmp_path).fit(
            stage, toy_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )


def test_damaged_chains_are_refused_with_their_name(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "chains/step=8-rank=0.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"step=8-rank=0\.pt is damaged"):
        train(tmp_path, tmp_path / "last.ckpt", max_steps=10)


def test_evaluation_needs_no_chains(tmp_path: Path) -> None:
    train(tmp_path)
    for path in (tmp_path / "chains").iterdir():
        path.unlink()
    stage = ebm_stage(ReplayBuffer(capacity=37))
    small_trainer(tmp_path).test(
        stage, toy_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False
    )
    assert len(stage.replay) == 0  # type: ignore[arg-type]
