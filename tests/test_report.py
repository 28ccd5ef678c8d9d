"""Our figures beside the paper's: means over runs, empty cells, bad input."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.runs import run
from tests.training import ebm_stage
from vaebm.callbacks.result_files import description, settings
from vaebm.classifier_stage import ClassifierStage
from vaebm.report import PAPER, Cell, figure_of, read_run, tables
from vaebm.samplers import ReplayBuffer
from vaebm.spaces import DataSpace, JointSpace
from vaebm.vae_stage import VAEStage

METHOD = Path(__file__).parents[2] / "shared/method.md"


def log_folder(folder: Path, model: str, data: str, settings: str = "a", **metrics: float) -> Path:
    """A log folder as `vaebm test` leaves it."""
    folder.mkdir(parents=True)
    named = {f"test/{name}": value for name, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(named))
    about = {"model": model, "data": data, "settings": settings}
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three runs on StackedMNIST and one on CIFAR-10."""
    return [
        log_folder(tmp_path / "a", "VAEBM", "StackedMNISTDataModule", modes=990, mode_kl=0.1),
        log_folder(tmp_path / "b", "VAEBM", "StackedMNISTDataModule", modes=1000, mode_kl=0.3),
        log_folder(tmp_path / "c", "VAE", "StackedMNISTDataModule", modes=900),
        log_folder(tmp_path / "d", "VAEBM", "CIFAR10DataModule", fid_100=70.0, fid_5000=60.0),
    ]


def test_paper_has_the_figures_of_the_reference() -> None:
    if not METHOD.exists():
        pytest.skip("no reference beside the repository")
    text = METHOD.read_text()
    for table in yaml.safe_load(PAPER.read_text())["tables"]:
        assert {len(row) for row in table["rows"].values()} == {len(table["columns"])}
        for model, row in table["rows"].items():
            name = model.removesuffix(" (supervised)")
            numbers = [f"{value:g}" for value in row if value is not None]
            pattern = (
                re.escape(name)
                + r"[ |]+"
                + r"[ |/:]+".join(re.escape(n) + r"\.?0*" for n in numbers)
            )
            assert re.search(pattern, text), (table["title"], model)


def test_rows_are_means_over_the_runs_of_a_model(folders: list[Path]) -> None:
    found = {table.title: table for table in tables([read_run(folder) for folder in folders])}
    ours = found["Table 5: StackedMNIST"].ours
    modes, kl = ours["VAEBM"]
    assert modes is not None
    assert kl is not None
    assert (modes.mean, modes.runs, str(modes)) == (995, 2, "995 ± 7.1")
    assert (kl.mean, kl.spread) == (pytest.approx(0.2), pytest.approx(0.02**0.5))
    assert [value and value.mean for value in ours["VAE"]] == [900, None]
    assert not found["Table 2: CelebA 64"].ours


def test_figure_is_that_of_most_samples(folders: list[Path]) -> None:
    cifar = read_run(folders[3])
    assert figure_of(cifar, "fid_{n}") == (5000, 60)
    assert figure_of(cifar, "inception_score_{n}") is None
    assert figure_of(read_run(folders[0]), "mode") is None


def test_command_writes_text_and_picture(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "report", *folders, "--output", tmp_path / "out")
    assert (result.code, result.errors) == (0, [])
    text = (tmp_path / "out/report.md").read_text()
    assert "| **VAEBM, measured here** | 995 ± 7.1 | 0.2 ± 0.14 | 2 |" in text
    assert "| **VAE, measured here** | 900 |  | 1 |" in text
    assert "| VEEGAN | 761.8 | 2.173 | |" in text
    assert "| **VAEBM, measured here** |  | 60 | 1 |" in text  # in tables 1 and 4
    assert "CelebA" not in text.replace("CIFAR-10", "")
    assert "ICLR 2021" in text
    assert Image.open(tmp_path / "out/report.png").size[1] > 500


def test_only_figures_of_as_many_samples_are_averaged(tmp_path: Path) -> None:
    runs = [
        read_run(log_folder(tmp_path / str(n), "VAE", "CIFAR10DataModule", **{f"fid_{n}": fid}))
        for n, fid in ((10_000, 14.0), (50_000, 10.0))
    ]
    _, fid = tables(runs)[0].ours["VAE"]
    assert fid == Cell(10, 0, 1)


def test_models_of_other_settings_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = [
        read_run(log_folder(tmp_path / name, "VAE", "CIFAR10DataModule", settings, fid_9=fid))
        for name, settings, fid in (("1", "a", 10), ("2", "b", 20), ("3", "b", 40))
    ]
    rows = {model: row[1] and row[1].mean for model, row in tables(runs)[0].ours.items()}
    assert rows == {"VAE (a)": 10, "VAE (b)": 30}


def test_folder_given_twice_counts_once(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [folders[0], folders[0] / "metrics.json"]
    assert run(capsys, "report", *twice, "--output", tmp_path / "out").code == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "| **VAEBM, measured here** | 990 | 0.1 | 1 |" in text


def test_settings_differ_with_the_model_not_with_its_seed() -> None:
    first, seeded, other = ebm_stage(), ebm_stage(seed=7), ebm_stage(lr=0.3)
    assert settings(first) == settings(seeded) != settings(other)


def test_metrics_file_is_taken_for_its_folder(folders: list[Path]) -> None:
    assert read_run(folders[0] / "metrics.json") == read_run(folders[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1]", "is damaged"), ("{", "is damaged"), ('{"test/modes": "x"}', "is damaged")],
)
def test_damaged_files_are_one_line(
    folders: list[Path], capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (folders[0] / "metrics.json").write_text(content)
    result = run(capsys, "report", folders[0])
    assert (result.code, len(result.errors)) == (1, 1)
    assert message in result.err


def test_wrong_use_is_one_line(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = log_folder(tmp_path / "e", "VAEBM", "DigitsDataModule", frechet_vaebm=9)
    for arguments, message in (
        ([tmp_path / "no"], "has no metrics.json: give the log folder"),
        ([other], r"these runs (DigitsDataModule) have no figure of the paper's tables"),
        ([], "the following arguments are required: RUN"),
    ):
        result = run(capsys, "report", *arguments)
        assert (result.code, len(result.errors)) == (2, 1)
        assert message in result.err


def test_models_are_described_in_the_words_of_the_tables() -> None:
    model = ebm_stage()
    assert description(model) == "VAEBM"
    assert description(ebm_stage(ReplayBuffer(10, 0.5, 1))) == "VAEBM, persistent chains"
    assert description(VAEStage(model.vae)) == "VAE"
    for space, words in (
        (DataSpace(), "EBM on x"),
        (DataSpace(init="vae"), "EBM on x, from VAE samples"),
        (JointSpace(), "VAEBM on (z, x)"),
    ):
        model.space = space
        assert description(model) == words
    assert description(ClassifierStage([1, 8, 8], 2)) == "ClassifierStage"
