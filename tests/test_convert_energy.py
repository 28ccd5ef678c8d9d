"""Published energy networks: loaded exactly, converted with their VAE, refused in one line."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.official_energy import TABLES, OfficialEnergy, content, random_energy
from tests.official_files import arguments
from tests.official_files import content as nvae_content
from tests.official_files import write as write_nvae
from tests.runs import Result, overlay, run, trained
from tests.test_convert import Evil
from vaebm.checkpoints.reading import load_vae, read_checkpoint
from vaebm.convert import convert, load_energy, load_nvae
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models import ResidualEnergy
from vaebm.models.energy import LAYOUTS
from vaebm.official.energy import energy_names
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace

Run = Callable[..., Result]

# Millions of parameters, convolutions and entries of the published files.
SIZES = {
    "cifar32": (5.138, 16, 47),
    "celeba64": (4.338, 22, 63),
    "lsun64": (5.814, 26, 75),
    "celeba256": (14.207, 31, 89),
    "mnist": (0.680, 11, 33),
}


def write(folder: Path, weights: dict[str, Tensor], name: str = "EBM.pth") -> Path:
    """Write weights as VAEBM's training does."""
    torch.save(content(weights), folder / name)
    return folder / name


# The networks


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("colours", [1, 3])
def test_energy_of_every_layout_is_that_of_the_reference(
    tmp_path: Path, table: str, colours: int
) -> None:
    weights = {n: w.double() for n, w in random_energy(table, 4, colours).items()}
    image = torch.rand(2, colours, 64, 64, dtype=torch.float64, requires_grad=True)
    official = OfficialEnergy(weights, table)
    expected, value = official(image), load_energy(write(tmp_path, weights))(image)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(value.sum(), image)
    (due,) = torch.autograd.grad(expected.sum(), image)
    assert due.abs().max() > 0.01  # so that the tolerance means something
    torch.testing.assert_close(gradient, due, rtol=1e-9, atol=1e-9)
    assert official.used == set(weights)


@pytest.mark.parametrize("name", SIZES)
def test_layout_of_the_published_width_has_the_published_size(name: str) -> None:
    with torch.device("meta"):
        energy = ResidualEnergy(3, 128 if name == "cifar32" else 64, *LAYOUTS[name])
    parameters = sum(parameter.numel() for parameter in energy.parameters())
    convolutions = [m for m in energy.modules() if isinstance(m, torch.nn.Conv2d)]
    entries = len(set(energy_names(energy).values()))
    assert (round(parameters / 1e6, 3), len(convolutions), entries) == SIZES[name]


@pytest.mark.parametrize("table", TABLES)
def test_every_published_weight_finds_its_place(table: str) -> None:
    with torch.device("meta"):
        energy = ResidualEnergy(3, 4, *LAYOUTS[table])
    assert sorted(energy_names(energy).values()) == sorted(random_energy(table))
    kept = set(energy.state_dict()) - set(energy_names(energy))
    assert all(name == "initialised" or name.startswith("spectral.") for name in kept)


def test_loaded_energy_is_not_initialised_by_data_again(tmp_path: Path) -> None:
    energy = load_energy(write(tmp_path, random_energy("mnist")))
    assert (energy.needs_data, energy.training) == (False, False)


def test_file_without_an_optimiser_is_read(tmp_path: Path) -> None:
    torch.save({"model": random_energy("mnist")}, tmp_path / "EBM.pth")
    load_energy(tmp_path / "EBM.pth")


def test_double_precision_of_a_file_is_kept(tmp_path: Path) -> None:
    weights = {name: weight.double() for name, weight in random_energy("mnist").items()}
    weights["conv1.bias"] += 1e-12
    energy = load_energy(write(tmp_path, weights))
    assert torch.equal(energy.conv1.bias, weights["conv1.bias"])


def test_weights_of_half_precision_are_widened(tmp_path: Path) -> None:
    weights = {name: weight.half() for name, weight in random_energy("mnist").items()}
    assert load_energy(write(tmp_path, weights)).conv1.bias.dtype == torch.float32


# Files that are refused, each with what is wrong


def broken(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of a published file of the CIFAR-10 layout after a change of its weights."""
    weights: dict[str, Any] = random_energy("cifar32")
    change(weights)
    with pytest.raises(DataError) as caught:
        load_energy(write(tmp_path, weights))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "key", ["conv1.bias", "blocks.3.conv1.weight", "blocks.0.skip.0.weight", "linear.bias"]
)
def test_missing_key_is_named(tmp_path: Path, key: str) -> None:
    assert f"missing keys: {key}" in broken(tmp_path, lambda w: w.pop(key))


@pytest.mark.parametrize("key", ["head.bias", "blocks.2.conv3.weight", "blocks.9.conv1.bias"])
def test_left_over_key_is_named(tmp_path: Path, key: str) -> None:
    change = lambda w: w.update({key: torch.zeros(8)})  # noqa: E731
    assert f"left-over keys: {key}" in broken(tmp_path, change)


def test_entry_of_another_shape_is_named(tmp_path: Path) -> None:
    change = lambda w: w.update({"blocks.2.conv1.bias": torch.zeros(9)})  # noqa: E731
    assert "blocks.2.conv1.bias is of shape (9,), but (8,) is due" in broken(tmp_path, change)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_number_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    change = lambda w: w["blocks.1.conv2.log_weight_norm"][0].fill_(value)  # noqa: E731
    assert "blocks.1.conv2.log_weight_norm holds NaN or infinity" in broken(tmp_path, change)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (3, torch.zeros(1)),
        ("conv1.bias", 3.0),
        ("conv1.weight", [1, 2]),
        ("conv1.bias", torch.zeros(4).to_sparse()),
        ("conv1.bias", torch.zeros(4, dtype=torch.complex64)),
    ],
)
def test_entry_that_is_no_plain_tensor_is_named(tmp_path: Path, key: Any, value: Any) -> None:
    change = lambda w: w.update({key: value})  # noqa: E731
    assert f"{key}, which is no plain tensor" in broken(tmp_path, change)


@pytest.mark.parametrize("weight", [None, torch.zeros(4), torch.zeros(0, 3, 3, 3)])
def test_file_without_a_first_convolution_is_refused(tmp_path: Path, weight: Any) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights.pop("conv1.weight")
        weights.update({} if weight is None else {"conv1.weight": weight})

    assert "no conv1.weight of a convolution" in broken(tmp_path, change)


def test_images_without_channels_are_refused(tmp_path: Path) -> None:
    change = lambda w: w.update({"conv1.weight": torch.zeros(4, 0, 3, 3)})  # noqa: E731
    assert "cannot be converted" in broken(tmp_path, change)


def test_blocks_of_no_known_layout_are_described(tmp_path: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        for key in [key for key in weights if key.startswith("blocks.5.")]:
            weights.pop(key)

    message = broken(tmp_path, change)
    assert "its 5 blocks of widths [4, 4, 8, 8, 8], after 4 channels" in message
    assert all(name in message for name in LAYOUTS)


def test_skip_convolution_where_no_layout_has_one_is_described(tmp_path: Path) -> None:
    change = lambda w: w.update(  # noqa: E731
        {f"blocks.5.skip.0.{name}": w[f"blocks.4.skip.0.{name}"] for name in LEAVES}
    )
    assert "skip convolutions in blocks [0, 2, 4, 5]" in broken(tmp_path, change)


LEAVES = ("weight", "log_weight_norm")


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ({"model": {}}, "no conv1.weight"),
        ({"model": torch.zeros(1), "optimizer": {}}, "no published checkpoint"),
        ({"state_dict": {}, "hyper_parameters": {}}, "already"),
        ([1, 2], "no published checkpoint"),
    ],
)
def test_file_of_another_kind_is_refused(tmp_path: Path, whole: Any, message: str) -> None:
    torch.save(whole, tmp_path / "EBM.pth")
    with pytest.raises(DataError, match=message):
        load_energy(tmp_path / "EBM.pth")


def test_nvae_where_an_energy_is_due_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an energy network is due"):
        load_energy(write_nvae(tmp_path, nvae_content(arguments())))


def test_energy_where_an_nvae_is_due_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an NVAE is due"):
        load_nvae(write(tmp_path, random_energy("mnist")))


def test_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, random_energy("mnist"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        load_energy(path)


def test_code_in_a_file_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**content(random_energy("mnist")), "optimizer": Evil()}, "EBM.pth")
    with pytest.raises(DataError, match="is refused"):
        load_energy("EBM.pth")
    assert not Path("executed").exists()


# The converted file


@cache
def published_nvae(**changes: Any) -> dict[str, Any]:
    """What a small published NVAE file holds."""
    return nvae_content(arguments(**changes))


@pytest.fixture
def vaebm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command in a folder with a published NVAE, checkpoint.pt, and energy, EBM.pth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    write_nvae(tmp_path, published_nvae())
    write(tmp_path, random_energy("cifar32"))
    return lambda *args: run(capsys, *args)


@pytest.fixture
def converted(vaebm: Run) -> Path:
    """Both published networks in one checkpoint of stage 2, made by the command line."""
    output = Path("models/ebm.ckpt")
    result = vaebm(*WITH_VAE, "checkpoint.pt", "--output", output)
    assert (result.code, f"checkpoint: {output}" in result.out) == (0, True), result.err
    assert list(output.parent.iterdir()) == [output]
    return output


WITH_VAE = ("convert", "EBM.pth", "--vae_checkpoint")


def stage_of(path: Path) -> EBMStage:
    return EBMStage.load_from_checkpoint(path, map_location="cpu", weights_only=True)


def test_converted_checkpoint_holds_both_networks(converted: Path) -> None:
    stage = stage_of(converted)
    for ours, expected in (
        (stage.energy, load_energy("EBM.pth")),
        (stage.vae, load_nvae("checkpoint.pt")),
    ):
        own = ours.state_dict()
        for name, value in expected.state_dict().items():
            if not name.startswith("spectral."):  # its start is random
                assert torch.equal(own[name], value), name


def test_converted_energy_is_not_initialised_by_data_again(converted: Path) -> None:
    assert not stage_of(converted).energy.needs_data


def test_vae_of_a_converted_checkpoint_is_that_of_the_published_one(converted: Path) -> None:
    vae, expected = load_vae(converted), load_nvae("checkpoint.pt")
    eps = torch.randn(2, vae.noise_dim)
    assert torch.equal(vae.decode(eps).image, expected.decode(eps).image)


@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_vae_of_a_checkpoint_of_ours_gives_the_same_file(
    converted: Path, vaebm: Run, kind: str
) -> None:
    vae: Path | str = converted
    if kind == "stage 1":
        vae = "nvae.ckpt"
        assert vaebm("convert", "checkpoint.pt", "--output", vae).code == 0
    assert vaebm(*WITH_VAE, vae, "--output", "again.ckpt").code == 0
    first, second = read_checkpoint(converted), read_checkpoint("again.ckpt")
    assert first["hyper_parameters"] == second["hyper_parameters"]
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]) or ".u_" in name, name


@pytest.mark.parametrize(
    ("table", "num_steps", "step_size", "settings"),
    [
        ("cifar32", 16, 8e-5, {"contrast": "sample", "spectral_weight": 0.2, "lr": 4e-5}),
        ("celeba64", 20, 5e-6, {"contrast": "mean", "spectral_weight": 0.2, "lr": 5e-5}),
        ("lsun64", 20, 4e-6, {"contrast": "mean", "spectral_weight": 0.2, "lr": 4e-5}),
        ("celeba256", 24, 3e-6, {"contrast": "mean", "spectral_weight": 0.3, "lr": 4e-5}),
        ("mnist", 10, 8e-5, {"contrast": "mean", "spectral_weight": 0.2, "lr": 4e-5}),
    ],
)
def test_converted_checkpoint_keeps_the_published_settings(
    tmp_path: Path, table: str, num_steps: int, step_size: float, settings: dict[str, Any]
) -> None:
    blocks = {"num_preprocess_blocks": 2, "num_postprocess_blocks": 2}
    vae = write_nvae(tmp_path, published_nvae(dataset="celeba_64", **blocks))
    convert(write(tmp_path, random_energy(table)), tmp_path / "ebm.ckpt", vae)
    stage = stage_of(tmp_path / "ebm.ckpt")
    assert isinstance(stage.sampler, LangevinSampler)
    assert isinstance(stage.space, NoiseSpace)
    assert (stage.sampler.num_steps, stage.sampler.step_size) == (num_steps, step_size)
    assert (stage.sampler.noise_scale, stage.space.prior) == (1.0, "joint")
    assert {name: getattr(stage, name) for name in settings} == settings
    assert (stage.weight_decay, tuple(stage.betas)) == (3e-5, (0.99, 0.999))
    assert (stage.gradient_bound, stage.data_init_batches, stage.replay) == (True, 0, None)


def test_converted_checkpoint_names_its_classes_and_sizes_as_data(converted: Path) -> None:
    settings = read_checkpoint(converted)["hyper_parameters"]
    assert settings["energy"] == {
        "class_path": "vaebm.models.energy.ResidualEnergy",
        "init_args": {
            "image_channels": 3,
            "channels": 4,
            "multipliers": [1, 1, 2, 2, 2, 2],
            "halvings": [0, 2, 4],
        },
    }


@pytest.mark.parametrize("mean", ["false", "true"])
def test_converted_checkpoint_samples(converted: Path, vaebm: Run, mean: str) -> None:
    options = ("--num_samples", 4, "--num_steps", 2, "--mean", mean, "--output", "out")
    result = vaebm("sample", "--ckpt_path", converted, *options)
    assert result.code == 0, result.err
    with np.load("out/samples.npz") as arrays:
        images = arrays["arr_0"]
    assert (images.shape, images.dtype) == ((4, 32, 32, 3), np.uint8)
    assert images.std() > 1


def test_published_chain_is_the_default_of_a_converted_checkpoint(
    converted: Path, vaebm: Run
) -> None:
    drawn = []
    for folder, options in (("first", ()), ("second", ("--num_steps", 16))):
        sample = ("sample", "--ckpt_path", converted, "--num_samples", 2, "--output", folder)
        assert vaebm(*sample, *options).code == 0
        with np.load(f"{folder}/samples.npz") as arrays:
            drawn.append(arrays["arr_0"])
    assert np.array_equal(*drawn)


def test_converted_checkpoint_is_tested(converted: Path, vaebm: Run) -> None:
    data = overlay(Path("data.yaml"), {"data": {"class_path": "tests.test_nvae_runs.RandomImages"}})
    result = vaebm("test", "--config", data, "--ckpt_path", converted, "--trainer.logger=false")
    assert result.code == 0, result.err
    assert "test/elbo_minus_energy" in result.out


# Bad use of the command


@pytest.fixture
def refused(vaebm: Run) -> Callable[..., str]:
    """Runs a conversion that must fail with one error line and no file; gives that line."""

    def check(code: int, *args: object) -> str:
        before = set(Path().rglob("*"))
        result = vaebm("convert", *args, "--output", "new/out.ckpt")
        assert "Traceback" not in result.out + result.err
        assert (result.code, len(result.errors)) == (code, 1), result.err
        assert set(Path().rglob("*")) == before
        return result.errors[0]

    return check


def test_energy_without_a_vae_is_refused(refused: Callable[..., str]) -> None:
    assert "--vae_checkpoint" in refused(2, "EBM.pth")


def test_nvae_with_a_vae_is_refused(refused: Callable[..., str]) -> None:
    line = refused(2, "checkpoint.pt", "--vae_checkpoint", "checkpoint.pt")
    assert "--vae_checkpoint is for energy networks" in line


def test_energy_as_the_vae_is_refused(refused: Callable[..., str]) -> None:
    assert "energy network" in refused(1, "EBM.pth", "--vae_checkpoint", "EBM.pth")


def test_vae_that_is_missing_is_refused(refused: Callable[..., str]) -> None:
    line = refused(2, "EBM.pth", "--vae_checkpoint", "nothing.ckpt")
    assert "nothing.ckpt does not exist" in line


def test_vae_that_is_damaged_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "nvae.ckpt").write_bytes(Path("checkpoint.pt").read_bytes()[:1000])
    assert "damaged" in refused(1, "EBM.pth", "--vae_checkpoint", "nvae.ckpt")


def test_vae_of_another_kind_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "nvae.ckpt")
    assert "no checkpoint" in refused(1, "EBM.pth", "--vae_checkpoint", "nvae.ckpt")


def test_energy_that_is_damaged_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    weights = random_energy("cifar32")
    weights.pop("linear.bias")
    write(tmp_path, weights)
    line = refused(1, "EBM.pth", "--vae_checkpoint", "checkpoint.pt")
    assert "missing keys: linear.bias" in line


def test_energy_of_other_colours_than_the_vae_is_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    write(tmp_path, random_energy("cifar32", colours=1))
    line = refused(2, "EBM.pth", "--vae_checkpoint", "checkpoint.pt")
    assert "1 channels" in line
    assert "(3, 32, 32)" in line


def test_energy_that_halves_more_often_than_the_vaes_images_allow_is_refused(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    write(tmp_path, random_energy("celeba256"))  # halves six times, 32 is halved five times
    line = refused(2, "EBM.pth", "--vae_checkpoint", "checkpoint.pt")
    assert "multiples of 64" in line


def test_vae_of_points_is_refused(refused: Callable[..., str]) -> None:
    assert "shape (2,)" in refused(2, "EBM.pth", "--vae_checkpoint", trained().vae)


def test_image_size_need_not_be_the_published_one(tmp_path: Path) -> None:
    vae = write_nvae(tmp_path, published_nvae())
    convert(write(tmp_path, random_energy("celeba64")), tmp_path / "ebm.ckpt", vae)
    assert stage_of(tmp_path / "ebm.ckpt").vae.image_shape == (3, 32, 32)


def test_file_that_is_there_is_not_overwritten(vaebm: Run) -> None:
    Path("mine.ckpt").write_text("precious")
    result = vaebm(*WITH_VAE, "checkpoint.pt", "--output", "mine.ckpt")
    assert (result.code, len(result.errors)) == (2, 1)
    assert Path("mine.ckpt").read_text() == "precious"


def test_failed_conversion_leaves_nothing_behind(
    vaebm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    result = vaebm(*WITH_VAE, "checkpoint.pt", "--output", "new/ebm.ckpt")
    assert (result.code, len(result.errors)) == (1, 1)
    assert not list(Path("new").iterdir())


def test_missing_energy_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_energy(tmp_path / "nothing.pth")


def test_help_names_the_vae(vaebm: Run) -> None:
    assert "--vae_checkpoint" in vaebm("convert", "--help").out
