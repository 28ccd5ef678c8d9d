"""Configs by name, and what of them counts where a checkpoint brings the model."""

from pathlib import Path

import pytest
import yaml

from vaebm.config_files import find_config, shipped_configs, without_model


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
