"""Checkpoints: written whole or not at all, read without running code, found again, exported."""

from vaebm.checkpoints.reading import load_vae, read_checkpoint

__all__ = ["load_vae", "read_checkpoint"]
