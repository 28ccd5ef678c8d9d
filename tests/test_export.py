"""`vaebm export`: the same model from safetensors as from its checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.callbacks.test_chain_report import metrics_of, settings
from tests.runs import STAGE_2, fit, overlay, run, trained

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def exported(tmp_path: Path, capsys: Capture) -> Path:
    path = tmp_path / "ebm.safetensors"
    result = run(capsys, "export", trained().ebm, "--output", path)
    assert (result.code, result.out) == (0, f"weights: {path}\n")
    return path


def test_other_programs_read_the_weights(exported: Path) -> None:
    weights = torch.load(trained().ebm, weights_only=True)["state_dict"]
    found = load_file(exported)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_samples_are_those_of_the_checkpoint(
    tmp_path: Path, exported: Path, capsys: Capture
) -> None:
    found = []
    for name, path in (("ckpt", trained().ebm), ("safetensors", exported)):
        output = tmp_path / name
        command = ("sample", "--ckpt_path", path, "--num_samples", 5, "--output", output)
        assert run(capsys, *command).code == 0
        found.append(np.load(output / "samples.npz")["arr_0"])
    assert np.array_equal(*found)


def test_figures_are_those_of_the_checkpoint(
    tmp_path: Path, exported: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    small = settings({})
    small["trainer"]["callbacks"] = []
    overlay(tmp_path / "small.yaml", small)
    for name, path in (("ckpt", trained().ebm), ("safetensors", exported)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        configs = ("--config", "gaussians25_ebm", "--config", tmp_path / "small.yaml")
        result = run(capsys, "test", *configs, "--ckpt_path", path)
        assert (result.code, result.errors) == (0, [])
        found.append(metrics_of(folder))
    assert found[0] == found[1]


def test_stage_2_takes_its_vae_from_exported_weights(tmp_path: Path, capsys: Capture) -> None:
    vae = tmp_path / "vae.safetensors"
    assert run(capsys, "export", trained().vae, "--output", vae).code == 0
    assert fit(tmp_path, "gaussians25_ebm", STAGE_2, "--model.vae_checkpoint", vae) == 0


def test_no_training_goes_on_from_weights_alone(exported: Path, capsys: Capture) -> None:
    result = run(capsys, "fit", "--config", "gaussians25_ebm", "--ckpt_path", exported)
    assert result.code == 2
    assert ["a checkpoint of weights alone" in line for line in result.errors] == [True]


@pytest.mark.parametrize("damage", ["empty", "cut off", "no settings", "settings that are no JSON"])
def test_damaged_file_is_one_line(exported: Path, capsys: Capture, damage: str) -> None:
    if damage == "empty":
        exported.write_bytes(b"")
    elif damage == "cut off":
        exported.write_bytes(exported.read_bytes()[:-10])
    else:
        metadata = None if damage == "no settings" else {"hyper_parameters": "{"}
        save_file(load_file(exported), exported, metadata)
    result = run(capsys, "sample", "--ckpt_path", exported, "--output", exported.parent / "s")
    assert result.code == 1
    assert [str(exported) in line for line in result.errors] == [True]


def test_wrong_output_is_one_line(tmp_path: Path, exported: Path, capsys: Capture) -> None:
    for output, reason in (
        (tmp_path / "model.ckpt", "must end in .safetensors"),
        (exported, "is there already"),
        (exported / "x.safetensors", "is a file, but a folder is due"),
    ):
        result = run(capsys, "export", trained().ebm, "--output", output)
        assert result.code == 2
        assert [reason in line for line in result.errors] == [True]
