"""Configs by name, and what of them counts where a checkpoint brings the model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vaebm.config_files import find_config, shipped_configs, without_model
from vaebm.models import ResidualEnergy
from vaebm.models.energy import LAYOUTS


def test_path_comes_before_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits_vae.yaml").write_text("seed_everything: 3\n")
    assert find_config("digits_vae.yaml") == "digits_vae.yaml"


@pytest.mark.parametrize("name", ["digits_vae", "digits_vae.yaml"])
def test_shipped_config_is_found_with_and_without_its_ending(name: str) -> None:
    assert find_config(name) == str(shipped_configs()["digits_vae.yaml"])


def test_model_of_a_whole_training_is_left_out() -> None:
    whole = yaml.safe_load(Path(find_config("digits_vae")).read_text())
    rest = yaml.safe_load(without_model("digits_vae"))
    assert rest == {key: value for key, value in whole.items() if key != "model"}


def test_single_settings_of_a_model_stay(tmp_path: Path) -> None:
    path = tmp_path / "five.yaml"
    path.write_text("model: {init_args: {sampler: {init_args: {num_steps: 5}}}}")
    assert without_model(str(path)) == str(path)


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("-2E4", -2e4), (".5e1", 5.0)])
def test_numbers_without_a_point_stay_numbers(tmp_path: Path, text: str, value: float) -> None:
    path = tmp_path / "number.yaml"
    path.write_text(f"model: {{class_path: VAEStage}}\ntrainer: {{gradient_clip_val: {text}}}\n")
    rest = yaml.safe_load(without_model(str(path)))
    assert rest["trainer"]["gradient_clip_val"] == value


# The networks of the shipped configs

# Data set, layout of its energy as published and width; StackedMNIST is not published.
NETWORKS = {
    "cifar10": ("cifar32", 128),
    "celeba64": ("celeba64", 64),
    "lsun_church64": ("lsun64", 64),
    "celebahq256": ("celeba256", 64),
    "stacked_mnist": ("mnist", 64),
}


def data_set(name: str) -> str:
    return re.split("_(?:vae|ebm)", name)[0]


def arguments(name: str, part: str) -> dict[str, Any]:
    """Class and arguments of a part of a shipped config's model."""
    settings = yaml.safe_load(shipped_configs()[name].read_text())
    found: dict[str, Any] = settings["model"]["init_args"][part]
    return found


RESIDUAL = [
    name
    for name in shipped_configs()
    if "_ebm" in name and arguments(name, "energy")["class_path"].endswith(".ResidualEnergy")
]


def test_every_image_set_of_the_paper_has_a_residual_energy() -> None:
    assert {data_set(name) for name in RESIDUAL} == set(NETWORKS)


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_energy_of_a_config_is_that_of_its_data_set(name: str) -> None:
    layout, channels = NETWORKS[data_set(name)]
    channels = 16 if name == "cifar10_ebm_small.yaml" else channels
    expected = {
        "image_channels": 3,
        "channels": channels,
        "multipliers": list(LAYOUTS[layout].multipliers),
        "halvings": list(LAYOUTS[layout].halvings),
    }
    assert arguments(name, "energy")["init_args"] == expected


@pytest.mark.parametrize("name", RESIDUAL)
def test_residual_energy_of_a_config_takes_the_images_of_its_vae(name: str) -> None:
    vae = arguments(f"{data_set(name)}_vae.yaml", "vae")
    shape = vae["init_args"]["image_shape"]
    with torch.device("meta"):
        energy = ResidualEnergy(**arguments(name, "energy")["init_args"])
    assert energy(torch.zeros(2, *shape, device="meta")).shape == (2,)


@pytest.mark.parametrize("name", shipped_configs())
def test_config_mentions_no_config_that_is_not_shipped(name: str) -> None:
    words = re.findall(
        r"\w+_(?:vae|ebm|classifier(?!_stage))\w*", shipped_configs()[name].read_text()
    )
    known = {config.removesuffix(".yaml") for config in shipped_configs()}
    mentioned = {word for word in words if data_set(word) in map(data_set, known)}
    assert name.removesuffix(".yaml") in mentioned  # as the folder of its runs
    assert mentioned <= known
