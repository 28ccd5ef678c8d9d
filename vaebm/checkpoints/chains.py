"""Keeps persistent chains across interruptions."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from vaebm.checkpoints.atomic import write_atomically
from vaebm.errors import DataError, UsageError
from vaebm.samplers.replay import ReplayBuffer


class ChainCheckpoint(Callback):
    """Writes each rank's replay buffer beside the Lightning checkpoints, and reads it on resume.

    A Lightning checkpoint is written by rank 0 alone and is meant to stay small; chains are
    neither. Each rank writes ``chains/step=S-rank=R.pt`` atomically. The last two files stay: a
    run that dies between the chains and the checkpoint still finds those of the checkpoint. The
    folder is that of the first ModelCheckpoint; a checkpoint moved elsewhere takes it along.

    Args:
        replay: The buffer to keep.
    """

    keep = 2

    def __init__(self, replay: ReplayBuffer) -> None:
        super().__init__()
        self.replay = replay
        self._written: Path | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write this rank's chains for the step of the checkpoint."""
        folder = self._save_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        path = self._file(folder, checkpoint["global_step"], trainer.global_rank)
        if path == self._written:  # several checkpoints of one step share their chains
            return
        write_atomically(path, self.replay.state_dict())
        for old in self._files(folder, trainer.global_rank)[: -self.keep]:
            old.unlink(missing_ok=True)
        self._written = path

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read this rank's chains of the step of the checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        step = checkpoint["global_step"]
        folder = Path(str(trainer.ckpt_path)).parent / "chains"
        path = self._file(folder, step, trainer.global_rank)
        ranks = sorted(folder.glob(f"step={step}-rank=*.pt"))
        if ranks and len(ranks) != trainer.world_size:
            self._redistribute(ranks, trainer)
            return
        if path.is_file():
            self.replay.load_state_dict(_read(path))
            return
        others = [p.name for p in self._files(folder, trainer.global_rank)]
        if others:
            raise UsageError(
                f"{folder} holds {', '.join(others)} but the checkpoint is of step {step}: resume "
                "from the newest checkpoint, or remove that folder to start the chains afresh"
            )
        rank_zero_warn(f"no chains beside the checkpoint ({path}): they start afresh")

    def _redistribute(self, paths: list[Path], trainer: Trainer) -> None:
        """Share out the chains of another number of processes, if that is wanted."""
        if not self.replay.redistribute:
            raise UsageError(
                f"{paths[0].parent} holds the chains of {len(paths)} processes, but this training "
                f"has {trainer.world_size}: resume with {len(paths)}, or deal the chains out again "
                "with --model.replay.redistribute true"
            )
        states = [_read(path) for path in paths]
        self.replay.load_share(states, trainer.global_rank, trainer.world_size)

    @staticmethod
    def _save_folder(trainer: Trainer) -> Path:
        saver = trainer.checkpoint_callback
        folder = getattr(saver, "dirpath", None) or trainer.default_root_dir
        return Path(folder) / "chains"

    @staticmethod
    def _file(folder: Path, step: int, rank: int) -> Path:
        return folder / f"step={step}-rank={rank}.pt"

    @staticmethod
    def _files(folder: Path, rank: int) -> list[Path]:
        found = folder.glob(f"step=*-rank={rank}.pt")
        return sorted(found, key=lambda p: p.stat().st_mtime_ns)


def _read(path: Path) -> dict[str, Any]:
    try:
        chains: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} is damaged: remove it to start the chains afresh") from error
    return chains
