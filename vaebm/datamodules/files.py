"""Files of published data sets: what is missing, what is damaged, how to fetch them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from vaebm.errors import DataError, UsageError


def images_extra(module: str) -> Any:
    """Import a module of the optional extra ``images``.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise UsageError(f"these data need {library}: pip install 'vaebm[images]'") from error


def require_files(folder: Path, names: Iterable[str], hint: str) -> None:
    """Refuse a folder that lacks files.

    Raises:
        UsageError: If files are missing; it names them and ends with the hint.
    """
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UsageError(f"{folder} lacks {', '.join(missing)}: {hint}")


def check_md5(folder: Path, sums: Mapping[str, str]) -> None:
    """Refuse files that are not as published.

    Raises:
        DataError: If files have other MD5 sums; it names them.
    """
    damaged = [name for name, md5 in sums.items() if _md5(folder / name) != md5]
    if damaged:
        raise DataError(
            f"{folder}: {', '.join(damaged)} damaged, the MD5 sum is not the published one; "
            "delete and fetch again"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def fetch(name: str, download: Callable[[], object]) -> None:
    """Download a data set.

    Raises:
        DataError: If that fails, for whatever reason.
    """
    try:
        download()
    except Exception as error:  # network, archive and disk each have errors of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} cannot be downloaded: {reason}") from error
