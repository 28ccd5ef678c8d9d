"""Files that are missing, damaged or cannot be fetched; libraries that are not installed."""

import hashlib
import re
import sys
from pathlib import Path

import pytest

import vaebm
from vaebm.datamodules import datamodules
from vaebm.datamodules.files import check_md5, fetch, images_extra, require_files
from vaebm.errors import DataError, UsageError


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with pytest.raises(UsageError, match=f"^{tmp_path} lacks a, c: fetch them$"):
        require_files(tmp_path, ["a", "b", "c"], "fetch them")


def test_files_that_are_there_pass(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    require_files(tmp_path, ["a"], "")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    sums = {}
    for name in "abc":
        (tmp_path / name).write_text(name)
        sums[name] = hashlib.md5(name.encode()).hexdigest()
    check_md5(tmp_path, sums)
    (tmp_path / "b").write_text("other")
    with pytest.raises(DataError, match=f"^{tmp_path}: b damaged, the MD5 sum is not"):
        check_md5(tmp_path, sums)


def test_failed_download_is_one_line() -> None:
    def download() -> None:
        raise RuntimeError("Tried A\nTried B\n")

    with pytest.raises(DataError, match=r"^MNIST cannot be downloaded: Tried A Tried B$"):
        fetch("MNIST", download)


def test_failed_download_without_a_reason_tells_the_kind() -> None:
    def download() -> None:
        raise EOFError

    with pytest.raises(DataError, match="cannot be downloaded: EOFError"):
        fetch("MNIST", download)


@pytest.mark.parametrize("module", ["torchvision.datasets", "lmdb"])
def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    library = module.partition(".")[0]
    with pytest.raises(UsageError, match=rf"need {library}: pip install 'vaebm\[images\]'"):
        images_extra(module)


@pytest.mark.parametrize("name", ["CIFAR10DataModule", "StackedMNISTDataModule"])
def test_data_that_need_torchvision_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    data = datamodules[name](root=str(tmp_path))  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="need torchvision"):
        data.setup("fit")


def test_nothing_imports_the_extra_by_itself() -> None:
    pattern = re.compile(r"^\s*(import|from) (torchvision|lmdb)\b", re.MULTILINE)
    files = list(Path(vaebm.__file__).parent.rglob("*.py"))
    assert files
    assert not [path.name for path in files if pattern.search(path.read_text())]
