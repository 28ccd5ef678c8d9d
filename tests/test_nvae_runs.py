"""NVAE from the command line: trained, converted, sampled, under stage 2."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.official_files import arguments, content, write
from tests.runs import LAST, Result, overlay, run
from tests.test_convert import Evil
from tests.training import assert_mean_of_ranks
from vaebm.checkpoints.reading import load_vae
from vaebm.convert import load_nvae
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.models import NVAE
from vaebm.noise import RowGenerators, standard_normal
from vaebm.vae_stage import VAEStage

Run = Callable[..., Result]

# The handwritten digits are the smallest real images; NVAE takes any size.
NVAE_ON_DIGITS = {
    "model": {
        "init_args": {
            "vae": {
                "class_path": "vaebm.models.NVAE",
                "init_args": {
                    "image_shape": [1, 8, 8],
                    "encoder_channels": 4,
                    "decoder_channels": 4,
                    "groups_per_scale": [1, 1],
                    "latent_channels": 2,
                    "encoder_cells": 1,
                    "decoder_cells": 1,
                    "num_preprocess_cells": 1,
                    "num_postprocess_cells": 1,
                },
            },
            "optimizer": "adamax",
            "kl_balance": True,
            "penalty_weight": 0.01,
            "warmup_portion": 0.2,
        }
    },
    "data": {"init_args": {"batch_size": 50}},
    "trainer": {
        "max_steps": 6,
        "val_check_interval": 3,
        "limit_val_batches": 1,
        "limit_test_batches": 2,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "vaebm.callbacks.SampleGrid", "init_args": {"num_samples": 9}},
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {
                    "filename": "{step}",
                    "every_n_train_steps": 2,
                    "save_top_k": -1,
                    "save_last": True,
                },
            },
        ],
    },
}
ENERGY = {
    "class_path": "vaebm.models.ConvEnergy",
    "init_args": {"image_channels": 3, "channels": 4, "num_scales": 2},
}


class RandomImages(ImageDataModule):
    """Images of 32×32 pixels that mean nothing.

    Args:
        batch_size: Images in a batch.
    """

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size, num_workers=0)

    def splits(self) -> Splits:
        """Three times the same images."""
        image = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return Splits(*(Tensors(image) for _ in range(3)))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, and leave no seed behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def vaebm(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *args: run(capsys, *args)


@pytest.fixture
def train(vaebm: Run, tmp_path: Path) -> Callable[..., Path]:
    """Trains NVAE on the digits; gives the folder of its checkpoints."""
    small = overlay(tmp_path / "small.yaml", NVAE_ON_DIGITS)

    def fit(*options: object) -> Path:
        before = set(Path("runs/digits_vae").glob("*"))
        result = vaebm("fit", "--config", "digits_vae", "--config", small, *options)
        assert result.code == 0, result.err
        (folder,) = set(Path("runs/digits_vae").glob("*")) - before
        return folder / "checkpoints"

    return fit


def test_training_leaves_checkpoint_and_pictures(train: Callable[..., Path]) -> None:
    folder = train()
    assert load_vae(folder / "last.ckpt").noise_dim == 2 * 2 * 2 + 2 * 4 * 4 + 64
    assert len(list(folder.parent.glob("samples/step=*.png"))) == 2


@pytest.mark.parametrize(
    "options", [("--trainer.precision", "bf16-mixed"), ("--model.vae.recompute", "true")]
)
def test_training_runs_with(train: Callable[..., Path], options: tuple[str, ...]) -> None:
    weights = torch.load(train(*options) / "last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in weights.values()} <= {torch.float32, torch.int64, torch.bool}


def test_resumed_training_ends_as_the_uninterrupted_one(train: Callable[..., Path]) -> None:
    folder = train()
    resumed = train("--ckpt_path", folder / "step=2.ckpt")
    first, second = (torch.load(f / "last.ckpt", weights_only=True) for f in (folder, resumed))
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name


def test_test_logs_both_bounds(train: Callable[..., Path], vaebm: Run) -> None:
    result = vaebm("test", "--ckpt_path", train() / "last.ckpt", "--model.num_importance_samples=4")
    assert result.code == 0, result.err
    assert "test/bits_per_dim_importance" in result.out


@pytest.fixture
def converted(vaebm: Run, tmp_path: Path) -> Path:
    """A published checkpoint of 32×32 images, converted by the command line."""
    published = write(tmp_path, content(arguments(num_nf=1)))
    result = vaebm("convert", published, "--output", "models/nvae.ckpt")
    assert (result.code, "checkpoint: models/nvae.ckpt" in result.out) == (0, True)
    return Path("models/nvae.ckpt")


def test_converted_checkpoint_samples(converted: Path, vaebm: Run, tmp_path: Path) -> None:
    result = vaebm("sample", "--ckpt_path", converted, "--num_samples", 5, "--output", "out")
    assert result.code == 0, result.err
    with np.load("out/samples.npz") as arrays:
        images = arrays["arr_0"]
    assert (images.shape, images.dtype) == ((5, 32, 32, 3), np.uint8)
    assert images.std() > 1


def test_converted_checkpoint_samples_what_the_published_one_does(
    converted: Path, vaebm: Run, tmp_path: Path
) -> None:
    vaebm("sample", "--ckpt_path", converted, "--num_samples", 2, "--output", "out", "--seed", 3)
    vae = load_nvae(tmp_path / "checkpoint.pt")
    eps = standard_normal(2, vae.noise_dim, generator=RowGenerators(3, range(2)))
    with np.load("out/samples.npz") as arrays, torch.no_grad():
        expected = (vae.decode(eps).image * 255).round().to(torch.uint8).movedim(1, -1)
        assert np.abs(arrays["arr_0"].astype(int) - expected.numpy()).max() <= 1


def test_temperature_and_recalibration_change_the_samples(converted: Path, vaebm: Run) -> None:
    drawn = []
    for options in ((), ("--temperature", 0.5), ("--recalibrations", 2)):
        result = vaebm("sample", "--ckpt_path", converted, "--num_samples", 2, "--output", "out",
                       *options)  # fmt: skip
        assert result.code == 0, result.err
        with np.load("out/samples.npz") as arrays:
            drawn.append(arrays["arr_0"])
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize("options", [("--temperature", 0), ("--recalibrations", -1)])
def test_sampling_options_out_of_range_are_refused(
    converted: Path, vaebm: Run, options: tuple[object, ...]
) -> None:
    result = vaebm("sample", "--ckpt_path", converted, *options)
    assert (result.code, len(result.errors)) == (2, 1)


@pytest.fixture
def stage_2(converted: Path, vaebm: Run, tmp_path: Path) -> Path:
    """Stage 2 on the converted checkpoint: two steps on random images."""
    settings = {
        "model": {
            "init_args": {
                "energy": ENERGY,
                "sampler": {"init_args": {"num_steps": 2, "step_size": 1e-4}},
                "vae_checkpoint": str(converted),
            }
        },
        "data": {
            "class_path": "tests.test_nvae_runs.RandomImages",
            "init_args": {"batch_size": 4},
        },
        "trainer": {
            "max_steps": 2,
            "limit_val_batches": 0,
            "val_check_interval": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_train_steps": 1, "save_last": True},
                }
            ],
        },
    }
    small = overlay(tmp_path / "stage2.yaml", settings)
    result = vaebm("fit", "--config", "digits_ebm", "--config", small)
    assert result.code == 0, result.err
    return Path("runs/digits_ebm") / LAST


def test_stage_2_trains_on_a_converted_checkpoint(stage_2: Path, converted: Path) -> None:
    vae, expected = load_vae(stage_2), load_vae(converted)
    for name, value in expected.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value), name


def test_stage_2_samples_refuse_a_temperature(stage_2: Path, vaebm: Run) -> None:
    for option in ("--temperature=0.5", "--recalibrations=3"):
        result = vaebm("sample", "--ckpt_path", stage_2, option, "--num_samples", 2)
        assert (result.code, len(result.errors)) == (2, 1)
        assert "stage 1" in result.errors[0]


# Bad input


@pytest.fixture
def refused(vaebm: Run) -> Callable[..., str]:
    """Runs a command that must fail with one error line; gives that line."""

    def check(code: int, *args: object) -> str:
        result = vaebm(*args)
        assert "Traceback" not in result.out + result.err
        assert (result.code, len(result.errors)) == (code, 1), result.err
        return result.errors[0]

    return check


def test_convert_without_output_is_refused(refused: Callable[..., str]) -> None:
    assert "--output" in refused(2, "convert", "checkpoint.pt")


def test_convert_of_a_missing_file_is_refused(refused: Callable[..., str]) -> None:
    assert "does not exist" in refused(2, "convert", "checkpoint.pt", "--output", "out.ckpt")


def test_convert_of_a_converted_file_is_refused(
    converted: Path, refused: Callable[..., str]
) -> None:
    assert "already" in refused(1, "convert", converted, "--output", "out.ckpt")


def test_convert_of_code_is_refused_and_not_executed(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = write(tmp_path, content(arguments(), optimizer=Evil()))
    assert "could run code" in refused(1, "convert", path, "--output", "out.ckpt")
    assert not Path("executed").exists()
    assert not Path("out.ckpt").exists()


def test_convert_of_an_unknown_operator_is_refused(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    whole = content(arguments())
    whole["args"].arch_instance = "res_mbconv9"  # listed by the release, but never defined
    path = write(tmp_path, whole)
    assert "res_mbconv9" in refused(1, "convert", path, "--output", "out.ckpt")


def test_training_cannot_go_on_from_a_converted_file(
    converted: Path, refused: Callable[..., str]
) -> None:
    line = refused(2, "fit", "--config", "digits_vae", "--ckpt_path", converted)
    assert "weights alone" in line


@pytest.mark.parametrize("command", ["sample", "test"])
def test_published_file_where_ours_is_due_is_pointed_to_convert(
    tmp_path: Path, refused: Callable[..., str], command: str
) -> None:
    path = write(tmp_path, content(arguments()))
    assert "`vaebm convert`" in refused(1, command, "--ckpt_path", path)


def test_stage_2_on_a_published_file_is_pointed_to_convert(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = write(tmp_path, content(arguments()))
    assert "`vaebm convert`" in refused(
        1, "fit", "--config", "digits_ebm", "--model.vae_checkpoint", path
    )


# Two processes

SCRIPT = """
import sys
from pathlib import Path
import torch
from tests.test_nvae_runs import RandomImages, small_stage
from tests.training import FirstStep, small_trainer

torch.set_num_threads(1)
folder, stage, record = Path(sys.argv[1]), small_stage(), FirstStep()
trainer = small_trainer(folder, record, max_steps=2, devices=2, strategy="ddp")
trainer.fit(stage, RandomImages(batch_size=2))
kept = {"after": dict(stage.named_parameters()), **record.found}
torch.save(kept, folder / f"rank{trainer.global_rank}.pt")
"""


def small_stage() -> VAEStage:
    """Stage 1 on an NVAE with flows, trained as published."""
    torch.manual_seed(0)
    vae = NVAE(
        encoder_channels=4,
        decoder_channels=4,
        groups_per_scale=[1, 1],
        latent_channels=2,
        num_flows=1,
    )
    return VAEStage(vae, optimizer="adamax", kl_balance=True, penalty_weight=0.1, seed=5)


def test_two_processes_train_equal_weights_by_the_mean_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
        timeout=120,
    )
    start = dict(small_stage().named_parameters())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    first, second = (kept["after"] for kept in ranks)
    assert all(torch.equal(first[name], second[name]) for name in start)
    assert any(not torch.equal(first[name], start[name]) for name in start)
    assert_mean_of_ranks(ranks, small_stage, monkeypatch)
