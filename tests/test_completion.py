"""`vaebm completion` in a real bash."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import run
from vaebm.config_files import shipped_configs
from vaebm.samplers import samplers

TRY = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_vaebm
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    path = tmp_path_factory.mktemp("completion") / "vaebm.bash"
    command = [sys.executable, "-m", "vaebm.cli", "completion", "bash"]
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return path


def completions(script: Path, *words: str) -> set[str]:
    command = ["bash", "-c", TRY, "bash", str(script), "vaebm", *words]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=script.parent)
    return set(found.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["comp"], {"completion"}),
        (["fit", "--trainer.max_st"], {"--trainer.max_steps"}),
        (["fit", "--model.sampler.step_s"], {"--model.sampler.step_size"}),
        (["fit", "--model.sampler", ""], set(samplers.names())),
        (["fit", "--config", "a.yaml", "--config", "digits_v"], {"digits_vae.yaml"}),
        (["fit", "--data.roo"], {"--data.root"}),
        (["sample", "--num_s"], {"--num_samples", "--num_steps"}),
        (["completion", "z"], {"zsh"}),
        (["export", "vae"], {"vaebm.bash"}),
    ],
)
def test_bash_completes(bash_script: Path, words: list[str], expected: set[str]) -> None:
    assert completions(bash_script, *words) == expected


def test_every_shipped_config_is_offered(bash_script: Path) -> None:
    assert completions(bash_script, "fit", "--config", "") == set(shipped_configs())


@pytest.mark.parametrize("shell", ["zsh", "fish", "tcsh", "powershell"])
def test_other_shells_have_scripts(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    result = run(capsys, "completion", shell)
    assert (result.code, result.err) == (0, "")
    assert "gaussians25_vae.yaml" in result.out


def test_unknown_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, "completion", "korn")
    assert result.code == 2
    assert ["'bash'" in line for line in result.errors] == [True]
