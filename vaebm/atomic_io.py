"""Checkpoints that are there in full or not at all, also after a kill or a power cut."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer


def write_atomically(path: Path, content: Any) -> None:
    """Write what ``torch.save`` makes of some content beside its place, then move it there.

    Several processes may write the same file at once. One that is killed in between leaves a hidden
    file behind, with its number in the name.

    Args:
        path: The file; its folder is made.
        content: Tensors and plain data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves a name without content
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files, written beside their place first.

    Lightning writes to the system's temporary folder. Where that is another disk, moving the file
    is copying it, and a kill meanwhile leaves half of it under the name of the checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; an address such as ``s3://`` is Lightning's to write."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_atomically(Path(path), checkpoint)

    @classmethod
    def use_in(cls, trainer: Trainer) -> None:
        """Write the checkpoints of a trainer so, unless it brings a way of its own."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = cls()
