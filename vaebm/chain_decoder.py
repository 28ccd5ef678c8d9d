"""The frozen VAE as chains use it."""

from itertools import chain
from typing import Any

from torch import Tensor

from vaebm.models.base import VAE


class ChainDecoder:
    """Keeps `VAE.for_chains` of a VAE, and makes it anew where the VAE has changed or moved.

    It is no module: checkpoints do not hold the weights twice, and a copy starts without any.
    """

    def __init__(self) -> None:
        self._decoder: VAE | None = None
        self._weights: list[tuple[int, int]] = []

    def __reduce__(self) -> tuple[type["ChainDecoder"], tuple[Any, ...]]:
        """Copy and pickle as an empty one."""
        return ChainDecoder, ()

    def of(self, vae: VAE) -> VAE:
        """The decoder of a VAE in evaluation mode whose weights are as they are now."""
        weights = [place(tensor) for tensor in chain(vae.parameters(), vae.buffers())]
        if self._decoder is None or weights != self._weights:
            self._decoder, self._weights = vae.for_chains(), weights
        return self._decoder


def place(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies and how often it was written to."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
