"""The commands of `vaebm`, run for real on tiny settings."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.runs import STAGE_2, TINY, Result, Trained, fit, overlay, run, train_both, trained
from vaebm.classifier_stage import ClassifierStage
from vaebm.cli import COMMANDS, main
from vaebm.config_files import shipped_configs
from vaebm.datamodules import datamodules
from vaebm.ebm_stage import EBMStage
from vaebm.lightning_cli import VAEBMCLI
from vaebm.models import MLPVAE, DenseVAE, models
from vaebm.samplers import LangevinSampler, samplers
from vaebm.spaces import spaces
from vaebm.vae_stage import VAEStage

Run = Callable[..., Result]

TOY_METRICS = {"nll_true", "nll_vae", "modes_vae", "high_quality_vae", "mode_kl_vae"}
TOY_METRICS_EBM = TOY_METRICS | {"nll_vaebm", "modes", "high_quality", "mode_kl"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, and leave no seed behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def vaebm(capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *args: run(capsys, *args)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Tiny settings without a model: data and callbacks for evaluation."""
    return overlay(tmp_path / "tiny.yaml", TINY)


def samples(folder: str) -> np.ndarray:
    with np.load(Path(folder) / "samples.npz") as arrays:
        return arrays["arr_0"]


# What needs no training


def test_help_lists_all_commands(vaebm: Run) -> None:
    block = vaebm("--help").out.split("\n\n")[1]
    assert [line.split()[0] for line in block.splitlines()] == list(COMMANDS)


@pytest.mark.parametrize("option", [["--config", "{}"], ["--config={}"], ["-c", "{}"]])
def test_options_override_configs_wherever_they_stand(vaebm: Run, option: list[str]) -> None:
    config = [part.format("gaussians25_vae") for part in option]
    result = vaebm("fit", "--trainer.max_steps", 3, *config, "--print_config")
    assert yaml.safe_load(result.out)["trainer"]["max_steps"] == 3


def test_config_of_a_resumed_training_does_not_change_what_is_evaluated(vaebm: Run) -> None:
    vaebm("sample", "--ckpt_path", trained().ebm, "--output", "a")
    Path("saved.yaml").write_text(f"ckpt_path: {trained().vae}\n")
    result = vaebm("sample", "--ckpt_path", trained().ebm, "--config=saved.yaml", "--output", "b")
    assert result.code == 0, result.err
    assert np.array_equal(samples("a"), samples("b"))


def test_commands_are_those_of_the_parser_and_the_light_ones() -> None:
    assert set(COMMANDS) == {
        *VAEBMCLI.subcommands(),
        *"convert export report completion list".split(),
    }


def test_no_arguments_print_the_help(vaebm: Run) -> None:
    assert vaebm().out == vaebm("--help").out


def test_version_is_printed(vaebm: Run) -> None:
    assert vaebm("--version").out.startswith("vaebm ")


@pytest.mark.parametrize("command", VAEBMCLI.subcommands())
def test_every_command_has_help(vaebm: Run, command: str) -> None:
    result = vaebm(command, "--help")
    assert (result.code, "--config" in result.out) == (0, True)


def test_list_shows_all_builtin_classes(vaebm: Run) -> None:
    words = set(vaebm("list").out.split())
    assert {n for r in (samplers, spaces, models, datamodules) for n in r.names()} <= words


def test_list_shows_all_shipped_configs(vaebm: Run) -> None:
    assert set(shipped_configs()) <= set(vaebm("list").out.split())


# The shipped configs


def instantiate(
    monkeypatch: pytest.MonkeyPatch, name: str, *options: object
) -> tuple[int, list[VAEBMCLI]]:
    """Parse and build all that a config names, without running it."""
    seen: list[VAEBMCLI] = []
    with monkeypatch.context() as patch:
        patch.setattr(VAEBMCLI, "_run_subcommand", lambda cli, _: seen.append(cli))
        return main(["fit", "--config", name, *map(str, options)]), seen


def stand_in(name: str, folder: Path) -> Path:
    """A checkpoint of a small VAE for the images of a config of stage 2: an NVAE takes seconds."""
    settings = yaml.safe_load(shipped_configs()[stage_1_of(name)].read_text())
    vae = settings["model"]["init_args"]["vae"]["init_args"]
    shape, small = vae.get("image_shape"), {"latent_dim": 1, "width": 1, "depth": 1}
    stage = VAEStage(DenseVAE(shape, **small) if shape else MLPVAE(vae["data_dim"], **small))
    checkpoint = {"state_dict": stage.state_dict(), "hyper_parameters": dict(stage.hparams)}
    torch.save(checkpoint, folder / "vae.ckpt")
    return folder / "vae.ckpt"


def stage_1_of(name: str) -> str:
    """The config that trains the VAE of a config of stage 2."""
    return f"{name[: name.index('_ebm')]}_vae.yaml"


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_config_instantiates(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_2 = "_ebm" in name
    options = ["--model.vae_checkpoint", stand_in(name, tmp_path)] if stage_2 else []
    kind = EBMStage if stage_2 else VAEStage if "_vae" in name else ClassifierStage
    code, (cli,) = instantiate(monkeypatch, name, *options)
    assert (code, type(cli.model)) == (0, kind)


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_config_prints_in_full(vaebm: Run, name: str) -> None:
    result = vaebm("fit", "--config", name, "--print_config")
    assert (result.code, "class_path: vaebm." in result.out) == (0, True)


def test_config_is_found_without_its_ending(vaebm: Run) -> None:
    assert vaebm("fit", "--config", "digits_vae", "--print_config").code == 0


# Evaluation


def test_validate_writes_metrics(vaebm: Run, config: Path) -> None:
    vaebm("validate", "--config", config, "--ckpt_path", trained().ebm, "--trainer.logger=false",
          "--trainer.limit_val_batches=1")  # fmt: skip
    metrics = json.loads(Path("metrics.json").read_text())
    assert set(metrics) == {"val/energy_data", "val/energy_gap"}


@pytest.mark.parametrize(
    ("stage", "toy_metrics", "own"),
    [
        ("vae", TOY_METRICS, {"elbo", "bits_per_dim"}),
        ("ebm", TOY_METRICS_EBM, {"elbo", "energy", "elbo_minus_energy"}),
    ],
)
def test_test_writes_the_documented_metrics(
    vaebm: Run, config: Path, stage: str, toy_metrics: set[str], own: set[str]
) -> None:
    ckpt_path = getattr(trained(), stage)
    vaebm("test", "--config", config, "--ckpt_path", ckpt_path, "--trainer.logger=false")
    metrics = json.loads(Path("metrics.json").read_text())
    # Quadrature adds figures of its own accuracy.
    accuracy = {"edge_mass", "log_z", "mass", "quadrature_error"}
    names = {name.removeprefix("test/") for name in metrics}
    assert names - accuracy == toy_metrics | own


def test_test_writes_finite_metrics(vaebm: Run, config: Path) -> None:
    vaebm("test", "--config", config, "--ckpt_path", trained().ebm, "--trainer.logger=false")
    values = json.loads(Path("metrics.json").read_text()).values()
    assert all(np.isfinite(value) for value in values)


def test_test_prints_a_table(vaebm: Run, config: Path) -> None:
    result = vaebm("test", "--config", config, "--ckpt_path", trained().ebm)
    assert "test/nll_vaebm" in result.out


def test_test_needs_no_config_when_the_checkpoint_knows_its_data(vaebm: Run) -> None:
    assert vaebm("test", "--ckpt_path", trained().ebm).code == 0


def test_predict_writes_one_row_for_every_test_point(vaebm: Run) -> None:
    vaebm("predict", "--ckpt_path", trained().ebm, "--trainer.logger=false")
    with np.load("predictions.npz") as arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
        assert arrays["index"].tolist() == list(range(100))
    assert shapes == dict.fromkeys(("elbo", "energy", "elbo_minus_energy", "index"), (100,))


# Sampling


def test_sample_writes_float_points_of_a_toy(vaebm: Run) -> None:
    vaebm("sample", "--ckpt_path", trained().ebm, "--num_samples", 9, "--output", "out")
    points = samples("out")
    assert (points.shape, points.dtype) == ((9, 2), np.float32)


@pytest.mark.parametrize("stage", ["vae", "ebm"])
def test_sample_draws_a_grid(vaebm: Run, stage: str) -> None:
    vaebm("sample", "--ckpt_path", getattr(trained(), stage), "--output", "out")
    with Image.open("out/grid.png") as grid:
        grid.load()
        assert grid.format == "PNG"


@pytest.mark.parametrize("stage", ["vae", "ebm"])
def test_sample_does_not_depend_on_the_batch_size(vaebm: Run, stage: str) -> None:
    for size in (7, 50):
        vaebm("sample", "--ckpt_path", getattr(trained(), stage), "--num_samples", 20,
              "--batch_size", size, "--output", f"out{size}")  # fmt: skip
    # Sums over a batch of another size may round otherwise.
    np.testing.assert_allclose(samples("out7"), samples("out50"), rtol=1e-4, atol=1e-5)


def test_sample_with_the_same_seed_gives_equal_bytes(vaebm: Run) -> None:
    for name in ("a", "b"):
        vaebm("sample", "--ckpt_path", trained().ebm, "--seed", 3, "--output", name)
    assert np.array_equal(samples("a"), samples("b"))


def test_sample_with_another_seed_gives_other_samples(vaebm: Run) -> None:
    for seed in (0, 1):
        vaebm("sample", "--ckpt_path", trained().ebm, "--seed", seed, "--output", f"out{seed}")
    assert not np.isclose(samples("out0"), samples("out1")).any()


@cache
def digits_checkpoint() -> bytes:
    """An untrained stage-2 model of the digits, as a file's content."""
    from io import BytesIO

    from vaebm.ebm_stage import EBMStage
    from vaebm.models import ConvEnergy, ConvVAE
    from vaebm.spaces import NoiseSpace

    vae = ConvVAE(image_shape=(1, 8, 8), latent_dim=2, channels=4)
    energy = ConvEnergy(image_channels=1, channels=4, num_scales=1)
    stage = EBMStage(energy, LangevinSampler(2), NoiseSpace(), vae=vae)
    content = BytesIO()
    checkpoint = {"state_dict": stage.state_dict(), "hyper_parameters": dict(stage.hparams)}
    torch.save(checkpoint, content)
    return content.getvalue()


@pytest.fixture
def digits(vaebm: Run, tmp_path: Path) -> Path:
    """A folder of seven sampled digits."""
    (tmp_path / "digits.ckpt").write_bytes(digits_checkpoint())
    result = vaebm("sample", "--ckpt_path", "digits.ckpt", "--num_samples", 7, "--output", "out",
                   "--individual", "true")  # fmt: skip
    assert result.code == 0, result.err
    return tmp_path / "out"


def test_sample_writes_bytes_of_images(digits: Path) -> None:
    images = samples(str(digits))
    assert (images.shape, images.dtype) == ((7, 8, 8, 1), np.uint8)


def test_sample_writes_one_png_a_sample_when_asked(digits: Path) -> None:
    single = sorted(path.name for path in digits.glob("[0-9]*.png"))
    assert single == [f"{number:06d}.png" for number in range(7)]


def test_single_png_holds_the_bytes_of_its_sample(digits: Path) -> None:
    with Image.open(digits / "000003.png") as image:
        assert np.array_equal(np.asarray(image), samples(str(digits))[3, ..., 0])


@pytest.fixture
def means(digits: Path, vaebm: Run) -> Callable[..., np.ndarray]:
    """Draws the means of the seven digits with some options, one PNG each; gives the bytes."""

    def run(output: str, *options: object) -> np.ndarray:
        result = vaebm("sample", "--ckpt_path", "digits.ckpt", "--num_samples", 7, "--output",
                       output, "--mean", "true", "--individual", "true", *options)  # fmt: skip
        assert result.code == 0, result.err
        return samples(output)

    return run


def test_stretched_samples_span_all_bytes(means: Callable[..., np.ndarray]) -> None:
    images = means("stretched", "--stretch", "true")
    assert (images.shape, images.dtype) == ((7, 8, 8, 1), np.uint8)
    assert (images.min((1, 2, 3)) == 0).all()
    assert (images.max((1, 2, 3)) == 255).all()


def test_samples_are_not_stretched_unless_asked(means: Callable[..., np.ndarray]) -> None:
    plain = means("plain")
    assert (np.ptp(plain, axis=(1, 2, 3)) < 255).all()
    assert np.array_equal(plain, means("false", "--stretch", "false"))


def test_stretched_samples_are_the_plain_ones_up_to_contrast(
    means: Callable[..., np.ndarray],
) -> None:
    plain, stretched = (means("a").reshape(7, -1), means("b", "--stretch", "true").reshape(7, -1))
    for before, after in zip(plain.astype(float), stretched, strict=True):
        low, high = before.min(), before.max()
        # Rounding the plain ones to bytes costs up to half a byte at each end and in between.
        np.testing.assert_allclose(
            after, 255 * (before - low) / (high - low), atol=300 / np.ptp(before)
        )


def test_stretched_samples_are_those_of_all_files(means: Callable[..., np.ndarray]) -> None:
    images = means("out2", "--stretch", "true")
    for number, image in enumerate(images):
        with Image.open(f"out2/{number:06d}.png") as single:
            assert np.array_equal(np.asarray(single), image[..., 0])
    with Image.open("out2/grid.png") as grid:  # a gap of 2 white pixels on each side
        assert np.array_equal(np.asarray(grid)[2:10, 2:10], images[0].repeat(3, axis=2))


@pytest.mark.parametrize("stage", ["vae", "ebm"])
def test_points_cannot_be_stretched(vaebm: Run, stage: str) -> None:
    result = vaebm("sample", "--ckpt_path", getattr(trained(), stage), "--stretch", "true")
    assert (result.code, len(result.errors)) == (2, 1)
    assert "--stretch is for images" in result.errors[0]
    assert not Path("samples").exists()


# Settings: checkpoint < config < option


@pytest.fixture
def chain_steps(monkeypatch: pytest.MonkeyPatch) -> Counter[float]:
    """Counts the steps that Langevin chains really take, by step size."""
    trained()  # its chains do not count
    steps: Counter[float] = Counter()
    step = LangevinSampler.step

    def counted(self: LangevinSampler, *args: object, **kwargs: object) -> object:
        steps[self.step_size] += 1
        return step(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(LangevinSampler, "step", counted)
    return steps


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 3),
        (["--config", "five.yaml"], 5),
        (["--config", "five.yaml", "--model.sampler.num_steps", "7"], 7),
        (["--model.init_args.sampler.init_args.num_steps", "7"], 7),
        (["--num_steps", "2"], 2),
    ],
    ids=["checkpoint", "config", "option", "long option", "num_steps"],
)
def test_option_beats_config_beats_checkpoint(
    vaebm: Run, tmp_path: Path, chain_steps: Counter[float], options: list[str], expected: int
) -> None:
    overlay(
        tmp_path / "five.yaml",
        {"model": {"init_args": {"sampler": {"init_args": {"num_steps": 5}}}}},
    )
    vaebm("sample", "--ckpt_path", trained().ebm, *options)
    assert chain_steps == {0.01: expected}


def test_test_uses_the_sampler_of_the_options(
    vaebm: Run, config: Path, chain_steps: Counter[float]
) -> None:
    vaebm("test", "--config", config, "--ckpt_path", trained().ebm,
          "--model.sampler.step_size", 0.02)  # fmt: skip
    assert set(chain_steps) == {0.02}


def test_config_of_a_whole_training_leaves_the_checkpoint_its_model(
    vaebm: Run, config: Path, chain_steps: Counter[float]
) -> None:
    # gaussians25_ebm draws by resampling, the checkpoint by Langevin dynamics.
    vaebm("test", "--config", "gaussians25_ebm", "--config", config, "--ckpt_path", trained().ebm)
    assert set(chain_steps) == {0.01}


def test_config_of_the_other_stage_leaves_the_checkpoint_its_model(
    vaebm: Run, config: Path
) -> None:
    options = ("--config", config, "--ckpt_path", trained().ebm)
    assert "test/nll_vaebm" in vaebm("test", "--config", "gaussians25_vae", *options).out


def test_folder_named_like_a_command_is_no_command(vaebm: Run) -> None:
    vaebm("sample", "--ckpt_path", trained().ebm, "--num_samples", 3, "--output", "fit")
    assert Path("fit/samples.npz").is_file()


# Files that stand alone


@pytest.fixture
def orphan(tmp_path: Path) -> Trained:
    """Both stages trained here, then stage 1 removed."""
    both = train_both(tmp_path)
    shutil.rmtree(tmp_path / "runs/gaussians25_vae")
    return both


@pytest.mark.parametrize("command", ["sample", "test"])
def test_stage_2_checkpoint_stands_alone(vaebm: Run, orphan: Trained, command: str) -> None:
    alone = Path(shutil.move(orphan.ebm, "alone.ckpt"))
    shutil.rmtree("runs")
    assert vaebm(command, "--ckpt_path", alone).code == 0


def test_fit_resumes_when_the_stage_1_file_is_gone(orphan: Trained, tmp_path: Path) -> None:
    code = fit(
        tmp_path, "gaussians25_ebm", STAGE_2, "--ckpt_path", orphan.ebm, "--trainer.max_steps=6",
        "--model.vae_checkpoint", orphan.vae,
    )  # fmt: skip
    resumed = torch.load(tmp_path / "runs/gaussians25_ebm" / "version_1/checkpoints/last.ckpt")
    assert (code, resumed["global_step"]) == (0, 6)


def test_fit_saves_its_whole_config(orphan: Trained) -> None:
    saved = Path(orphan.ebm).parents[1] / "config.yaml"
    assert "num_steps: 3" in saved.read_text()


def test_saved_config_repeats_the_training(vaebm: Run, orphan: Trained) -> None:
    saved = Path(orphan.ebm).parents[1] / "config.yaml"
    again = vaebm("fit", "--config", saved, "--model.vae_checkpoint", orphan.ebm)
    first, second = (
        torch.load(f"runs/gaussians25_ebm/version_{n}/checkpoints/last.ckpt")["state_dict"]
        for n in (0, 1)
    )
    assert again.code == 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_terminated_training_is_no_success(tmp_path: Path) -> None:
    options = ["--config", "gaussians25_vae.yaml", "--trainer.log_every_n_steps", "1"]
    command = [sys.executable, "-m", "vaebm.cli", "fit", *options]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not any(tmp_path.rglob("metrics.csv")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
