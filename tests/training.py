"""Trainers and data for short trainings in Python."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from vaebm.datamodules import Gaussians25DataModule
from vaebm.ebm_stage import EBMStage
from vaebm.models import MLPVAE, MLPEnergy
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.spaces import NoiseSpace

BATCHES = 4  # in an epoch


def toy_data() -> Gaussians25DataModule:
    """25 Gaussians, four batches an epoch."""
    return Gaussians25DataModule(batch_size=25, num_train=25 * BATCHES, num_test=100)


def small_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A silent trainer on the CPU that logs to memory alone."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": BATCHES,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **(defaults | options))


def saver(folder: Path, every: int) -> ModelCheckpoint:
    """Saves ``last.ckpt`` every few steps."""
    return ModelCheckpoint(
        folder, filename="{step}", every_n_train_steps=every, save_last=True, save_top_k=-1
    )


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def ebm_stage(replay: ReplayBuffer | None = None, **options: Any) -> EBMStage:
    """Stage 2 on a small VAE of points, whose weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = MLPVAE(latent_dim=3, width=8, depth=1)
    energy = MLPEnergy(width=8, depth=1)
    sampler = LangevinSampler(2, step_size=0.01)
    defaults: dict[str, Any] = {"lr": 1e-2, "seed": 5}
    return EBMStage(energy, sampler, NoiseSpace(), replay, vae=vae, **(defaults | options))
