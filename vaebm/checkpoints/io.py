"""How the Trainer writes checkpoints: whole or not at all, each with its model card."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from vaebm.checkpoints.atomic import write_atomically
from vaebm.checkpoints.model_card import card_of, remove_card, write_card
from vaebm.checkpoints.safetensors_file import is_safetensors, read_safetensors


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's files, written beside their place first, and a model card beside each.

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
            write_card(card_of(Path(path)), checkpoint)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, or the weights that `vaebm export` wrote."""
        if is_safetensors(path):
            return read_safetensors(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and its card."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            remove_card(card_of(Path(path)))

    @classmethod
    def use_in(cls, trainer: Trainer) -> None:
        """Write the checkpoints of a trainer so, unless it brings a way of its own."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = cls()
