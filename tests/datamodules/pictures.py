"""Small pictures, and files in the formats in which published sets come."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from vaebm.noise import generator_for


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A blurred random picture: unlike white noise, JPEG and resizing keep something of it."""
    coarse = torch.randint(256, (6, 5, 3), generator=generator_for(seed), dtype=torch.uint8)
    return Image.fromarray(coarse.numpy()).resize((width, height))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The bytes of an image file."""
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_lmdb(path: Path, values: Mapping[str, bytes] | Iterable[bytes]) -> Path:
    """Write an LMDB folder; without keys they are 0, 1, 2 ..."""
    lmdb = pytest.importorskip("lmdb")
    if not isinstance(values, Mapping):
        values = {str(index): value for index, value in enumerate(values)}
    path.mkdir(parents=True)
    environment = lmdb.open(str(path), map_size=2**26)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    environment.close()
    return path
