"""Plug-ins of other packages: a real one is installed and used, a broken one harms nobody."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runs import STAGE_2, overlay, trained
from tests.toys import half_square
from vaebm.noise import RowGenerators, generator_for

EXAMPLE = Path(__file__).parents[1] / "examples/custom_sampler"
WRONG = """
import torch
from vaebm.samplers import Chain, Sampler, StepInfo

class PointSampler(Sampler):
    \"\"\"Forgets the batch.\"\"\"

    def __init__(self, num_steps: int = 3) -> None:
        super().__init__(num_steps)

    def step(self, potential, chain, *, generator):
        return Chain(chain.state[:1]), StepInfo(potential(chain.state), chain.state.norm(dim=1))

class NaNSampler(PointSampler):
    \"\"\"Loses one chain.\"\"\"

    def step(self, potential, chain, *, generator):
        state = chain.state.clone()
        state[0] = torch.nan
        return Chain(state), StepInfo(potential(state).detach(), state.norm(dim=1))
"""
BROKEN = {
    "wrong_samplers.py": WRONG,
    "wrong_samplers-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: wrong\nVersion: 0.1\n",
    "wrong_samplers-0.1.dist-info/entry_points.txt": (
        "[vaebm.samplers]\nPointSampler = wrong_samplers:PointSampler\n"
        "NaNSampler = wrong_samplers:NaNSampler\n"
    ),
    "broken_sampler.py": 'raise ImportError("no such library")\n',
    "broken_sampler-0.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: broken\nVersion: 0.3\n",
    "broken_sampler-0.3.dist-info/entry_points.txt": (
        "[vaebm.samplers]\nBrokenSampler = broken_sampler:BrokenSampler\n"
    ),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example, built and installed by pip, and a plug-in that cannot load."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copytree(EXAMPLE, folder / "source")  # building leaves files behind
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
               "--no-build-isolation", "--target", "site", "./source"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    for name, text in BROKEN.items():
        path = folder / "site" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder / "site"


def vaebm(site: Path, folder: Path, *args: object) -> subprocess.CompletedProcess[str]:
    """Run `vaebm` as a program that sees the plug-ins."""
    command = [sys.executable, "-m", "vaebm.cli", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def listed(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> subprocess.CompletedProcess[str]:
    return vaebm(site, tmp_path_factory.mktemp("list"), "list")


@pytest.fixture(scope="module")
def trained_with_plugin(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A stage 2 whose chains the plug-in runs, and its folder."""
    folder = tmp_path_factory.mktemp("fit")
    overlay(folder / "small.yaml", STAGE_2)
    result = vaebm(
        site, folder, "fit", "--config", "gaussians25_ebm", "--config", "small.yaml",
        "--model.vae_checkpoint", trained().vae,
        "--model.sampler", "TemperedLangevinSampler", "--model.sampler.step_size", 0.01,
    )  # fmt: skip
    return result, folder


def broken_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "BrokenSampler" in line]


def test_list_shows_an_installed_plugin_with_its_origin(
    listed: subprocess.CompletedProcess[str],
) -> None:
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    assert ["TemperedLangevinSampler", "vaebm-custom-sampler 0.1.0"] in lines


def test_list_survives_a_broken_plugin(listed: subprocess.CompletedProcess[str]) -> None:
    assert (listed.returncode, "LangevinSampler" in listed.stdout) == (0, True)


def test_list_names_a_broken_plugin_in_one_line(
    listed: subprocess.CompletedProcess[str],
) -> None:
    expected = "warning: plug-in BrokenSampler (broken 0.3, vaebm.samplers) cannot be used"
    assert [line.startswith(expected) for line in broken_lines(listed)] == [True]


def test_fit_trains_with_an_installed_plugin(
    trained_with_plugin: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, folder = trained_with_plugin
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("runs/*/version_0/checkpoints/last.ckpt")
    sampler = torch.load(path)["hyper_parameters"]["sampler"]
    assert sampler["class_path"] == "tempered_langevin.TemperedLangevinSampler"
    assert sampler["init_args"]["step_size"] == 0.01


def test_fit_names_a_broken_plugin_in_one_line(
    trained_with_plugin: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    assert len(broken_lines(trained_with_plugin[0])) == 1


@pytest.mark.parametrize(
    ("name", "code", "complaint"),
    [
        ("PointSampler", 2, "PointSampler.step returned a state of (1, 6), but (50, 6) is due"),
        ("NaNSampler", 1, "1 of 50 chains of NaNSampler ended at NaN or infinity"),
    ],
)
def test_plugin_that_breaks_its_contract_is_named_in_one_line(
    site: Path, tmp_path: Path, name: str, code: int, complaint: str
) -> None:
    trainer = {**STAGE_2["trainer"], "num_sanity_val_steps": 0}
    overlay(tmp_path / "small.yaml", {**STAGE_2, "trainer": trainer})
    small = ("--config", "gaussians25_ebm", "--config", "small.yaml")
    vae = ("--model.vae_checkpoint", trained().vae)
    result = vaebm(site, tmp_path, "fit", *small, *vae, "--model.sampler", name)
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert (result.returncode, len(errors)) == (code, 1), result.stderr
    assert complaint in errors[0]
    assert "Traceback" not in result.stderr


def test_samples_of_a_plugin_that_are_no_numbers_are_refused(site: Path, tmp_path: Path) -> None:
    options = ("--model.sampler", "NaNSampler", "--batch_size", 5, "--num_samples", 10)
    result = vaebm(site, tmp_path, "sample", "--ckpt_path", trained().ebm, *options)
    assert result.returncode == 1
    assert "error: 1 of 5 samples hold NaN or infinity" in result.stderr
    assert not (tmp_path / "samples/samples.npz").exists()


def test_checkpoint_of_a_missing_plugin_is_refused_with_its_name(
    trained_with_plugin: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    (path,) = trained_with_plugin[1].glob("runs/*/version_0/checkpoints/last.ckpt")
    result = vaebm(tmp_path, tmp_path, "sample", "--ckpt_path", path)
    assert result.returncode == 1
    assert "tempered_langevin.TemperedLangevinSampler cannot be imported" in result.stderr


def test_example_settles_at_its_temperature(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    from tempered_langevin import TemperedLangevinSampler

    sampler = TemperedLangevinSampler(num_steps=100, step_size=0.2, temperature=0.25)
    state, _ = sampler.run(half_square, torch.zeros(4000, 4), generator=generator_for(0))
    # Langevin dynamics on N(0, 1) has variance T / (1 − η/4).
    assert state.var().item() == pytest.approx(0.25 / (1 - 0.05), rel=0.05)


def test_chains_of_the_example_do_not_depend_on_the_batch(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    from tempered_langevin import TemperedLangevinSampler

    def chains(numbers: range) -> torch.Tensor:
        generator, start = RowGenerators(3, numbers), torch.zeros(len(numbers), 2)
        return TemperedLangevinSampler().run(half_square, start, generator=generator)[0]

    assert torch.equal(chains(range(8)), torch.cat([chains(range(3)), chains(range(3, 8))]))
