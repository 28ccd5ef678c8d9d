"""Stage 2 on two processes: chains differ, weights do not; gradients are averaged; it resumes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.training import assert_mean_of_ranks, same_weights
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.ebm_stage import EBMStage
from vaebm.models import DenseVAE, ResidualEnergy
from vaebm.noise import generator_for
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace

STEPS = 6
ALARM = 3  # the step after which the guard of one rank sees a divergence
LR = 1e-3


class Images(ImageDataModule):
    """Random images of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__(4, 0)

    def splits(self) -> Splits:
        """The same images in all parts."""
        image = torch.rand(32, 1, 8, 8, generator=generator_for(0))
        return Splits(*(Tensors(image) for _ in range(3)))


def image_stage(energy_seed: int = 0) -> EBMStage:
    """A small energy of images on a small VAE, which is always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = DenseVAE((1, 8, 8), latent_dim=2, width=8, depth=1)
        torch.manual_seed(energy_seed)
        energy = ResidualEnergy(1, channels=4, multipliers=(1, 2), halvings=(0,))
    sampler = LangevinSampler(2, step_size=0.01)
    return EBMStage(
        energy, sampler, NoiseSpace(), vae=vae, lr=LR, offset_weight=0.1, gradient_weight=0.1,
        data_init_batches=1, seed=5,
    )  # fmt: skip


class AlarmOnOneRank(Callback):
    """Pretends that the second rank's chains are rejected at one step."""

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Log the sign; the stage logs none without noise."""
        rejected = trainer.global_rank == 1 and trainer.global_step + 1 == ALARM
        pl_module.log("train/accept_prob", 0.0 if rejected else 1.0)


SCRIPT = """
import os, sys
from pathlib import Path
import torch
from tests.test_ebm_ddp import STEPS, AlarmOnOneRank, Images, image_stage
from tests.test_ebm_stage import persistent
from tests.training import FirstStep, saver, small_trainer, toy_data
from vaebm.callbacks import DivergenceGuard

torch.set_num_threads(1)

def train_points(folder, seed, ckpt_path=None):
    stage = persistent(seed)
    trainer = small_trainer(folder, saver(folder, 3), max_steps=6, devices=2, strategy="ddp")
    trainer.fit(stage, toy_data(), ckpt_path=ckpt_path, weights_only=True)
    chains = stage.replay.state_dict()["ring"]
    torch.save({**stage.state_dict(), "chains": chains}, folder / f"rank{trainer.global_rank}.pt")

def train_images(name, stage, *callbacks):
    record = FirstStep()
    callbacks = (*callbacks, record)
    trainer = small_trainer(folder, *callbacks, max_steps=STEPS, devices=2, strategy="ddp")
    trainer.fit(stage, Images())
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    noise = torch.randn(4, generator=stage.training_generator())
    kept = {"after": stage.state_dict(), "rates": rates, "noise": noise, "returns": guard.returns}
    torch.save({**kept, **record.found}, folder / f"{name}{trainer.global_rank}.pt")

folder, guard = Path(sys.argv[1]), DivergenceGuard(min_accept=0.6, window=1, lag=1)
train_points(folder, 1)
train_points(folder / "resumed", 2, folder / "step=3.ckpt")
seed = int(os.environ.get("LOCAL_RANK", 0))  # the ranks start from different weights
train_images("plain", image_stage(seed))
stage = image_stage(seed)
stage.sampler.noise_scale = 0.0  # so that the stage logs no acceptance of its own
train_images("guarded", stage, AlarmOnOneRank(), guard)
"""

Run = dict[str, Any]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of four trainings, all by the same two processes: to start them takes longest."""
    folder = tmp_path_factory.mktemp("ddp")
    (folder / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, str(folder / "script.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder


# Points, with persistent chains


def test_two_processes_run_different_chains(ranks: Path) -> None:
    first, second = (torch.load(ranks / f"rank{rank}.pt")["chains"] for rank in (0, 1))
    assert not (first[:, None] == second).all(-1).any()


def test_two_processes_have_equal_weights(ranks: Path) -> None:
    first, second = (torch.load(ranks / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[n], second[n]) for n in first if n != "chains")


def test_every_process_writes_its_own_chains(ranks: Path) -> None:
    for rank in (0, 1):
        stored = torch.load(ranks / f"chains/step=6-rank={rank}.pt")["ring"]
        assert torch.equal(stored, torch.load(ranks / f"rank{rank}.pt")["chains"])


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_resume_as_if_uninterrupted(ranks: Path, rank: int) -> None:
    first, second = (torch.load(folder / f"rank{rank}.pt") for folder in (ranks, ranks / "resumed"))
    assert same_weights(first, second)


# Images, with an energy that is initialised by data


@pytest.fixture
def plain(ranks: Path) -> list[Run]:
    """What each rank of the unguarded training kept."""
    return [torch.load(ranks / f"plain{rank}.pt") for rank in (0, 1)]


@pytest.fixture
def guarded(ranks: Path) -> list[Run]:
    """What each rank of the guarded training kept."""
    return [torch.load(ranks / f"guarded{rank}.pt") for rank in (0, 1)]


def test_ranks_have_batches_and_noise_of_their_own(plain: list[Run]) -> None:
    first, second = plain
    assert not (first["x_data"][:, None] == second["x_data"]).flatten(2).all(2).any()
    assert not torch.isclose(first["noise"], second["noise"]).any()


def test_ranks_have_equal_weights_after_the_initialisation_by_data(plain: list[Run]) -> None:
    first, second = plain
    assert same_weights(first["before"], second["before"])


def test_initialisation_by_data_reaches_the_training(plain: list[Run]) -> None:
    new, loader = image_stage(), Images().train_dataloader()
    new.energy.initialise(next(iter(loader))[0])
    expected = {f"energy.{name}": p for name, p in new.energy.named_parameters()}
    assert same_weights(expected, {name: plain[0]["before"][name] for name in expected})


def test_ranks_have_equal_weights_after_training(plain: list[Run]) -> None:
    first, second = plain
    assert same_weights(first["after"], second["after"])
    assert not same_weights(first["before"], first["after"])


def test_gradient_of_a_step_is_the_mean_of_both_ranks(
    plain: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_mean_of_ranks(plain, image_stage, monkeypatch)


def test_ranks_step_with_one_gradient(plain: list[Run]) -> None:
    for first, second in zip(*(kept["gradient"] for kept in plain), strict=True):
        assert torch.equal(first, second)


def test_guard_steps_in_on_both_ranks_when_one_diverges(guarded: list[Run]) -> None:
    assert [kept["returns"] for kept in guarded] == [1, 1]
    assert [kept["rates"] for kept in guarded] == [[LR / 2]] * 2


def test_ranks_have_equal_weights_after_a_return(guarded: list[Run]) -> None:
    first, second = guarded
    assert same_weights(first["after"], second["after"])
    assert not same_weights(first["before"], first["after"])
