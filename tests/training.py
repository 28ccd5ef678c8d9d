"""Trainers and data for short trainings in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from vaebm.datamodules import Gaussians25DataModule
from vaebm.ebm_stage import EBMStage
from vaebm.models import MLPVAE, MLPEnergy
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.spaces import NoiseSpace
from vaebm.stage import Stage

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
    """Stage 2 on points, whose first weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = MLPVAE(latent_dim=3, width=8, depth=1)
        energy = MLPEnergy(width=8, depth=1)
    sampler = LangevinSampler(2, step_size=0.01)
    defaults: dict[str, Any] = {"lr": 1e-2, "seed": 5}
    return EBMStage(energy, sampler, NoiseSpace(), replay, vae=vae, **(defaults | options))


class FirstStep(Callback):
    """Keeps a process's first batch, the weights before it and the gradient that came of it."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first step."""
        if trainer.global_step == 0:
            state = {name: value.clone() for name, value in pl_module.state_dict().items()}
            self.found |= {"x_data": batch[0].clone(), "before": state}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: object
    ) -> None:
        """After DDP has averaged the gradients of the first step."""
        if trainer.global_step == 0:
            self.found["gradient"] = gradient(pl_module)


def gradient(module: LightningModule) -> list[torch.Tensor]:
    """The gradient of all trained parameters."""
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def assert_mean_of_ranks(
    ranks: list[dict[str, Any]], stage: Callable[[], Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of two processes is the mean of both processes' own, computed in this one.

    Args:
        ranks: What `FirstStep` found on each.
        stage: Makes the stage that they trained.
        monkeypatch: To be one process after the other.
    """
    of_ranks = []
    for rank, kept in enumerate(ranks):
        one = stage()
        one.log = one.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
        one.load_state_dict(kept["before"])
        monkeypatch.setattr(Stage, "global_rank", rank)
        monkeypatch.setattr(Stage, "global_step", 0)
        monkeypatch.setattr(Stage, "total_steps", lambda _: 2)
        one.train()
        one.training_step(kept["x_data"], 0).backward()
        of_ranks.append(gradient(one))
    found, first, second = (torch.cat([g.flatten() for g in all_]) for all_ in
                            (ranks[0]["gradient"], *of_ranks))  # fmt: skip
    assert not torch.allclose(first, second, rtol=0.01, atol=1e-4)
    assert (found - (first + second) / 2).norm() < 1e-6 * found.norm()
