"""Checkpoints of both stages: plain data, self-contained, equal to what was trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from tests.runs import trained
from tests.training import ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.checkpoints.reading import load_vae, read_checkpoint, vae_config
from vaebm.cli import main
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models import MLPVAE, MLPEnergy
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.spaces import NoiseSpace
from vaebm.stage import Stage
from vaebm.vae_stage import VAEStage

CAPACITY = 37  # a number that no other tensor has


class Made:
    """A stage trained in Python, and its checkpoint."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        small_trainer(folder, saver(folder, 4)).fit(stage, toy_data())
        self.stage = stage
        self.path = folder / "last.ckpt"


@pytest.fixture(params=["vae", "ebm"])
def by_hand(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    if request.param == "vae":
        return Made(VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), seed=5), tmp_path)
    return Made(ebm_stage(ReplayBuffer(CAPACITY)), tmp_path)


@pytest.fixture
def persistent(tmp_path: Path) -> Made:
    return Made(ebm_stage(ReplayBuffer(CAPACITY)), tmp_path)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a checkpoint."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def test_stage_made_in_python_is_saved_as_plain_data(by_hand: Made) -> None:
    assert torch.load(by_hand.path, weights_only=True)["global_step"] == 4


def test_stage_made_in_python_is_rebuilt_with_equal_weights(by_hand: Made) -> None:
    again = type(by_hand.stage).load_from_checkpoint(by_hand.path, weights_only=True)
    assert same_weights(again.state_dict(), by_hand.stage.state_dict())


def test_stage_made_in_python_is_rebuilt_with_equal_samples(by_hand: Made) -> None:
    again = type(by_hand.stage).load_from_checkpoint(by_hand.path, weights_only=True)
    first, second = (s.sample(9, generator=generator_for(1)) for s in (again, by_hand.stage))
    assert torch.equal(first, second)


def test_rebuilt_stage_can_be_trained_and_saved_again(by_hand: Made, tmp_path: Path) -> None:
    again = type(by_hand.stage).load_from_checkpoint(by_hand.path, weights_only=True)
    assert torch.load(Made(again, tmp_path / "again").path, weights_only=True)


def test_stage_is_rebuilt_without_naming_its_class(by_hand: Made) -> None:
    again = LightningModule.load_from_checkpoint(by_hand.path, weights_only=True)
    assert type(again) is type(by_hand.stage)


@pytest.mark.parametrize("name", ["vae", "ebm"])
def test_stage_made_by_the_command_line_is_rebuilt_with_equal_weights(name: str) -> None:
    path = getattr(trained(), name)
    stage = LightningModule.load_from_checkpoint(path, weights_only=True)
    assert same_weights(stage.state_dict(), torch.load(path)["state_dict"])


@pytest.mark.parametrize("name", ["vae", "ebm"])
def test_rebuilt_stage_draws_what_the_command_line_draws(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    path = getattr(trained(), name)
    main(["sample", "--ckpt_path", str(path), "--num_samples", "6", "--seed", "3"])
    stage = LightningModule.load_from_checkpoint(path, weights_only=True).eval()
    samples = stage.sample(6, generator=RowGenerators(3, range(6)))
    with np.load("samples/samples.npz") as arrays:
        assert np.array_equal(arrays["arr_0"], samples.numpy())


def test_stages_of_python_and_of_the_command_line_store_the_same_keys(tmp_path: Path) -> None:
    python = torch.load(Made(ebm_stage(), tmp_path).path)["hyper_parameters"]
    assert python.keys() == torch.load(trained().ebm)["hyper_parameters"].keys()


def test_ebm_checkpoint_carries_the_weights_of_its_vae() -> None:
    first, second = (load_vae(path) for path in (trained().vae, trained().ebm))
    assert same_weights(first.state_dict(), second.state_dict())


def test_ebm_checkpoint_carries_the_architecture_of_its_vae() -> None:
    first, second = (vae_config(read_checkpoint(path)) for path in trained())
    assert first == second


def test_ebm_takes_over_the_vae_of_an_ebm_checkpoint() -> None:
    stage = EBMStage(
        MLPEnergy(width=8), LangevinSampler(), NoiseSpace(), vae_checkpoint=str(trained().ebm)
    )
    assert same_weights(stage.vae.state_dict(), load_vae(trained().vae).state_dict())


def test_chains_are_in_no_state_dict(persistent: Made) -> None:
    assert not any(CAPACITY in tensor.shape for tensor in persistent.stage.state_dict().values())


def test_chains_are_in_no_lightning_checkpoint(persistent: Made) -> None:
    found = tensors(torch.load(persistent.path))
    assert not any(CAPACITY in tensor.shape for tensor in found)


def test_chains_are_beside_the_checkpoint(persistent: Made) -> None:
    stored = torch.load(persistent.path.parent / "chains/step=4-rank=0.pt", weights_only=True)
    assert stored["ring"].shape == (CAPACITY, persistent.stage.vae.noise_dim)


def test_weights_of_another_architecture_are_refused(persistent: Made) -> None:
    with pytest.raises(UsageError, match=r"do not fit this EBMStage: size mismatch") as refused:
        EBMStage.load_from_checkpoint(
            persistent.path, weights_only=True, vae=MLPVAE(latent_dim=9, width=8, depth=1)
        )
    assert "\n" not in str(refused.value)


def test_vae_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint = torch.load(trained().vae)
    checkpoint["hyper_parameters"]["vae"]["init_args"]["width"] = 5
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match=r"other\.ckpt do not fit its VAE: size mismatch"):
        load_vae(tmp_path / "other.ckpt")


def test_checkpoint_without_a_vae_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1.0}}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="holds no VAE"):
        load_vae(tmp_path / "other.ckpt")
