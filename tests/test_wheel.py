"""The wheel: built, installed elsewhere and used, as by who installs the package."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.runs import STAGE_1, overlay

ROOT = Path(__file__).parents[1]
NEEDED = ("vaebm", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since building leaves files behind."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        if not (ROOT / name).exists():
            pytest.skip("the package is installed without its sources")
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)  # type: ignore[operator]
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = source.glob("dist/*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which it is installed."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", folder, wheel], check=True, capture_output=True)
    return folder


def test_all_files_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        found = {name for name in content.namelist() if ".dist-info/" not in name}
    modules = {f"vaebm/{path.relative_to(ROOT / 'vaebm')}" for path in ROOT.glob("vaebm/**/*.py")}
    configs = {f"vaebm/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.*")}
    assert found == modules | configs | {"vaebm/py.typed", "vaebm/paper.yaml"}


def test_installed_package_trains(site: Path, tmp_path: Path) -> None:
    overlay(tmp_path / "small.yaml", STAGE_1)
    program = "import sys, vaebm.cli; print(vaebm.__file__); sys.exit(vaebm.cli.main())"
    result = subprocess.run(
        [sys.executable, "-c", program, "fit", "--config=gaussians25_vae", "--config=small.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(site))
    assert list(tmp_path.glob("runs/*/version_0/checkpoints/last.ckpt"))
