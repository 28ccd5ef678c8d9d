"""Files that are there in full or not at all, also after a kill or a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside its place, and move it there when it has been written.

    Several processes may write the same file at once. One that is killed in between leaves a hidden
    file behind, with its number in the name.

    Args:
        path: The file; its folder is made.

    Raises:
        OSError: With the name of the file, if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves a name without content
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # torch answers what its file raised with a RuntimeError that says nothing of a full disk.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def write_atomically(path: Path, content: Any) -> None:
    """Write what ``torch.save`` makes of some content.

    Args:
        path: The file; its folder is made.
        content: Tensors and plain data.
    """
    with whole_file(path) as file:
        torch.save(content, file)
