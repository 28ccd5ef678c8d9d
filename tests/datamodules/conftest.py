"""Real data sets, unpacked once for all tests that need them."""

import gzip
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKS = Path(__file__).parents[2].parent / "shared/data"


def pack(name: str) -> Path:
    """A packed data set; the test is skipped where it is not."""
    pytest.importorskip("torchvision")
    if not (PACKS / name).exists():
        pytest.skip(f"no {name} beside the repository")
    return PACKS / name


@pytest.fixture(scope="session")
def cifar10_root() -> Iterator[str]:
    """A folder with the published files of CIFAR-10."""
    images = pack("cifar10-lossless.zip")
    if not pytest.importorskip("PIL.features").check("webp"):
        pytest.skip("this Pillow reads no WebP")
    with tempfile.TemporaryDirectory() as folder:
        runpy.run_path(str(PACKS / "rebuild_cifar10.py"))["main"](images, folder)
        yield folder


@pytest.fixture(scope="session")
def mnist_root() -> Iterator[str]:
    """A folder with the published files of MNIST."""
    packed = pack("mnist")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST/raw"
        raw.mkdir(parents=True)
        for path in packed.glob("*.gz"):
            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        yield folder
