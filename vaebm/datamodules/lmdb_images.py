"""LMDB files, in which each image is a run of bytes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaebm.datamodules.encoded_images import EncodedFiles, stamp_of
from vaebm.datamodules.files import images_extra, require_files
from vaebm.errors import DataError

_opened: dict[Path, tuple[int, Any]] = {}


class LMDB(EncodedFiles):
    """The values of an LMDB folder, in the order of their keys; decimal keys in that of numbers.

    Args:
        path: Folder with ``data.mdb``.
        hint: What a user can do if it is missing.

    Raises:
        UsageError: If it is missing, or lmdb is not installed.
        DataError: If it is damaged or empty.
    """

    def __init__(self, path: Path, hint: str) -> None:
        require_files(path, ["data.mdb"], hint)
        self.path = path.resolve()
        with _transaction(self.path) as transaction:
            keys = list(transaction.cursor().iternext(values=False))
        self.keys: list[bytes] = sorted(keys, key=lambda key: (len(key), key))
        if not self.keys:
            raise DataError(f"{path} holds no images")

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> bytes:
        with _transaction(self.path) as transaction:
            data: bytes = transaction.get(self.keys[index])
        return data

    def __str__(self) -> str:
        return str(self.path)

    def stamp(self) -> str:
        """Of the one file."""
        return stamp_of(self.path / "data.mdb")


@contextmanager
def _transaction(path: Path) -> Iterator[Any]:
    """Read from an LMDB; what it finds wrong becomes a `DataError`."""
    lmdb = images_extra("lmdb")
    try:
        with _environment(path).begin() as transaction:
            yield transaction
    except lmdb.Error as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _environment(path: Path) -> Any:
    """An open LMDB. A process may not open one twice, nor use one that was open before a fork."""
    process, environment = _opened.get(path, (None, None))
    if process == os.getpid():
        return environment
    if environment is not None:
        environment.close()
    environment = images_extra("lmdb").open(str(path), readonly=True, lock=False, readahead=False)
    _refuse_cut_off(path / "data.mdb", environment)
    _opened[path] = (os.getpid(), environment)
    return environment


def _refuse_cut_off(path: Path, environment: Any) -> None:
    """Reading past the end of a file that memory maps would kill the process without a word."""
    due = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = path.stat().st_size
    if found < due:
        environment.close()
        raise DataError(f"{path} is cut off: it has {found} bytes of {due}")
