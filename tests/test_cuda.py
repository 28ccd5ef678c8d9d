"""The same on a GPU: trainings, chains, samples. Skipped where there is none."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs import LAST, STAGE_1, STAGE_2, fit, overlay
from tests.test_benchmark import stage_on_nvae, trained
from tests.test_chain_networks import small_energy
from tests.test_nvae_runs import NVAE_ON_DIGITS
from tests.training import ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.acceleration import GraphedPotential
from vaebm.benchmark.baseline import Baseline
from vaebm.chain_potential import ChainPotential
from vaebm.cli import main
from vaebm.models import NVAE, ResidualEnergy
from vaebm.noise import RowGenerators, standard_normal
from vaebm.samplers import LangevinSampler, MALASampler, ReplayBuffer, Sampler, value_and_grad
from vaebm.spaces import DataSpace, JointSpace, NoiseSpace, Space

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
SPACES: list[Space] = [NoiseSpace(), DataSpace(), NoiseSpace("joint"), JointSpace()]
GPU = ("--trainer.accelerator", "gpu", "--trainer.devices", "1")


def small_nvae() -> NVAE:
    """An NVAE of 8×8 pixels with two groups, in evaluation mode."""
    torch.manual_seed(0)
    vae = NVAE(
        (3, 8, 8),
        encoder_channels=8,
        decoder_channels=8,
        groups_per_scale=[1, 1],
        latent_channels=2,
        encoder_cells=1,
        decoder_cells=1,
    )
    return vae.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("space", "sampler"),
    [
        *((space, LangevinSampler(5, 1e-3)) for space in SPACES),
        # In JointSpace float32 decides differently on acceptance: U is in the thousands there.
        *((space, MALASampler(5, 1e-3)) for space in SPACES[:2]),
    ],
)
def test_a_chain_is_that_of_the_cpu(space: Space, sampler: Sampler) -> None:
    vae, energy = small_nvae(), ResidualEnergy(3, 8, [1, 1], [0])
    ends = []
    for device in ("cpu", "cuda"):
        vae.to(device)
        energy.to(device)
        generator = torch.Generator().manual_seed(3)  # draws on the CPU for both
        start = space.start(vae, 4, generator=generator)
        potential = space.potential(vae, energy)
        with torch.backends.cudnn.flags(allow_tf32=False):
            ends.append(sampler.run(potential, start, generator=generator)[0].cpu())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device is an error inside."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_recorded_gradient_is_the_plain_one_also_after_a_training_step() -> None:
    vae, energy, chains = small_nvae().cuda(), small_energy().cuda(), ChainPotential()
    space = NoiseSpace()
    with torch.backends.cudnn.flags(allow_tf32=False):
        for batch_size in (2, 4, 2):
            potential = chains.of(space, vae, energy)
            assert isinstance(potential, GraphedPotential)
            for _ in range(6):
                state = torch.randn(batch_size, vae.noise_dim, device="cuda")
                found = potential.value_and_grad(state)
                plain = value_and_grad(space.potential(vae, energy.eval()), state)
                torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
            with torch.no_grad():
                for parameter in energy.parameters():
                    parameter.mul_(1.1)
        assert potential.works
        assert len(potential.recordings) == 2


@pytest.mark.parametrize("sampler", [LangevinSampler(10, 1e-3), MALASampler(10, 1e-3)])
def test_the_host_does_not_wait_inside_a_chain(sampler: Sampler) -> None:
    stage = stage_on_nvae().cuda()
    stage.sampler = sampler
    generator = torch.Generator("cuda").manual_seed(0)
    start = stage.space.start(stage.decoder, 2, generator=generator)
    stage.run_chains(start, generator)  # records
    with no_waiting():
        stage.run_chains(start, generator)
    with pytest.raises(RuntimeError, match="synchronizing"), no_waiting():
        start.sum().item()


@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
def test_a_training_is_the_same_as_the_straightforward_one() -> None:
    stage = stage_on_nvae().cuda()
    plain = Baseline.of(stage).cuda()
    with torch.backends.cudnn.flags(allow_tf32=False):
        found, expected = trained(stage, 20), trained(plain, 20)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_rows_draw_on_the_gpu_whatever_the_batch() -> None:
    whole = standard_normal(5, 7, generator=RowGenerators(1, range(5), "cuda"), device="cuda")
    part = standard_normal(2, 7, generator=RowGenerators(1, [3, 4], "cuda"), device="cuda")
    assert whole.is_cuda
    assert torch.equal(whole[3:], part)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path, place: str) -> None:
    def train(folder: str, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
        stage = ebm_stage(ReplayBuffer(100, 0.5, device=place))
        where = tmp_path / folder
        trainer = small_trainer(where, saver(where, 2), accelerator="gpu", max_steps=8)
        trainer.fit(stage, toy_data(), ckpt_path=checkpoint, weights_only=True)
        return stage.state_dict()

    whole = train("whole")
    assert same_weights(whole, train("rest", tmp_path / "whole/step=6.ckpt"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_stages_train_test_and_sample(tmp_path: Path, precision: str) -> None:
    options = (*GPU, "--trainer.precision", precision)
    runs = tmp_path / "runs"
    assert fit(tmp_path, "gaussians25_vae.yaml", STAGE_1, *options) == 0
    vae = ("--model.vae_checkpoint", runs / "gaussians25_vae" / LAST)
    assert fit(tmp_path, "gaussians25_ebm.yaml", STAGE_2, *vae, *options) == 0
    checkpoint = str(runs / "gaussians25_ebm" / LAST)
    sets = []
    for size in ("3", "10"):
        output = str(tmp_path / f"samples{size}")
        draw = ["sample", "--ckpt_path", checkpoint, "--num_samples", "10", "--output", output]
        assert main([*draw, "--batch_size", size, "--trainer.accelerator", "gpu"]) == 0
        sets.append(np.load(f"{output}/samples.npz")["arr_0"])
    np.testing.assert_allclose(*sets, rtol=1e-3, atol=1e-4)
    small = str(overlay(tmp_path / "small.yaml", STAGE_2))
    tested = ["test", "--ckpt_path", checkpoint, "--config", "gaussians25_ebm.yaml"]
    with chdir(tmp_path):
        assert main([*tested, "--config", small, *options]) == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_nvae_trains(tmp_path: Path, precision: str) -> None:
    options = (*GPU, "--trainer.precision", precision)
    assert fit(tmp_path, "digits_vae.yaml", NVAE_ON_DIGITS, *options) == 0
