"""Images that are stored as files such as JPEG, wherever the files are."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from vaebm.datamodules.base import Batch, unit_interval
from vaebm.errors import DataError


class EncodedFiles(Dataset[bytes], ABC):
    """The bytes of files; its ``str`` says where they are."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> bytes: ...

    @abstractmethod
    def __str__(self) -> str: ...

    def place(self, index: int) -> str:
        """What a user would look for to find a file."""
        return f"image {index} of {self}"

    @abstractmethod
    def stamp(self) -> str:
        """Changes when files do: names, sizes, times."""


def stamp_of(path: Path) -> str:
    """Name, size and time of a file."""
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}\n"


class FolderFiles(EncodedFiles):
    """Files of one folder and those below it.

    Args:
        folder: The folder.
        names: The files' paths within it.
    """

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        return (self.folder / self.names[index]).read_bytes()

    def __str__(self) -> str:
        return str(self.folder)

    def place(self, index: int) -> str:
        """The path of a file."""
        return str(self.folder / self.names[index])

    def stamp(self) -> str:
        """Of every file."""
        return "".join(name + stamp_of(self.folder / name) for name in self.names)


class EncodedImages(Dataset[Batch]):
    """Images out of files such as JPEG: ``(image,)`` with image ``(C, H, W)`` in [0, 1].

    Grey images and those with transparency or a palette become RGB, or what `mode` says.

    Args:
        files: The files' bytes.
        prepare: Makes the final image out of the stored one and the item's number, which may
            count on from epoch to epoch.
        mode: Pillow's name for the kind of pixels, ``RGB`` or ``L`` for grey.
    """

    def __init__(
        self,
        files: EncodedFiles,
        prepare: Callable[[Image.Image, int], Image.Image],
        mode: str = "RGB",
    ) -> None:
        self.files = files
        self.prepare = prepare
        self.mode = mode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Batch:
        index = number % len(self)
        try:
            return (to_tensor(self.prepare(self._opened(index), number)),)
        except UnidentifiedImageError as error:
            raise DataError(f"{self.files.place(index)} has no known format") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.files.place(index)} cannot be used: {error}") from error

    def _opened(self, index: int) -> Image.Image:
        image = Image.open(BytesIO(self.files[index]))
        if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255
            raise DataError("it has more than 8 bits a pixel, convert it")
        return image.convert(self.mode)


def to_tensor(image: Image.Image) -> Tensor:
    """An image as floats ``(C, H, W)`` in [0, 1]."""
    pixels = torch.from_numpy(np.array(image))
    return unit_interval(pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
