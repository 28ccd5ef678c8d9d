"""Places to write to: refused before any work is done, or found beside what is there."""

import os
from itertools import count
from pathlib import Path

from vaebm.errors import UsageError


def check_folder(output: Path, option: str = "--output") -> None:
    """Refuse an output folder that cannot be one.

    Args:
        output: The folder, which need not be there.
        option: What chooses it.

    Raises:
        UsageError: If it is a file, lies below one, or cannot be written to.
    """
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UsageError(f"{option} {output}: {place} is a file, but a folder is due")
    if not os.access(place, os.W_OK):
        raise UsageError(f"{option} {output}: the folder {place} cannot be written to")


def check_file(output: Path, *, replace: bool) -> None:
    """Refuse an output file that cannot be written.

    Args:
        output: The file.
        replace: Whether one that is there already may be replaced.

    Raises:
        UsageError: If it is there already or a folder, or its folder cannot be written to.
    """
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder, but a file is due")
    if output.exists() and not replace:
        raise UsageError(f"--output {output} is there already; remove it or choose another name")
    check_folder(output.absolute().parent)


def free_path(path: Path, own: Path | None = None) -> Path:
    """A path, or if it is taken, the first free one of ``NAME-v1``, ``NAME-v2`` and so on.

    Args:
        path: The path.
        own: One that may be replaced.
    """
    own = own.absolute() if own else None
    numbered = (path.with_name(f"{path.stem}-v{number}{path.suffix}") for number in count(1))
    candidate = path
    while candidate.exists() and candidate.absolute() != own:
        candidate = next(numbered)
    return candidate
