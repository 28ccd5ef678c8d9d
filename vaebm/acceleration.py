"""Potentials that run faster: compiled, or recorded as a CUDA graph."""

from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vaebm.errors import first_line
from vaebm.samplers.base import Potential, value_and_grad

WARM_UP = 3  # calls in a row before a shape is recorded; libraries choose their kernels in them
GRAPHS = 2  # shapes that are kept: the batch of the training and that of the evaluation


class CompiledPotential:
    """A potential through ``torch.compile``, or as it is where that fails, with one line.

    Args:
        potential: U; its weights may change in place only.
    """

    def __init__(self, potential: Potential) -> None:
        self.plain = potential
        self.function: Potential = torch.compile(potential, dynamic=False)
        self.proven = False
        self.works = True

    def __call__(self, state: Tensor) -> Tensor:
        """U ``(B,)`` at states ``(B, D)``."""
        return self.function(state)

    def value_and_grad(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient; the first call finds out whether it can be compiled."""
        if self.proven:
            return value_and_grad(self.function, state)
        try:
            result = value_and_grad(self.function, state)
        except Exception as error:  # whatever a compiler may raise
            rank_zero_warn(f"chains run uncompiled: torch.compile failed, {first_line(error)}")
            self.function, self.works = self.plain, False
            result = value_and_grad(self.plain, state)
        self.proven = True
        return result


class Recording(NamedTuple):
    """A recorded gradient.

    Attributes:
        graph: What the device repeats.
        state: Where it reads, ``(B, D)``.
        result: Where it writes: U and its gradient.
    """

    graph: torch.cuda.CUDAGraph
    state: Tensor
    result: tuple[Tensor, Tensor]


class GraphedPotential:
    """A potential whose gradient is recorded as a CUDA graph once and repeated from then on.

    One call then costs one launch instead of thousands. States of another shape are recorded as
    well; where recording fails, the potential runs as it is, with one line.

    Args:
        potential: U; its weights may change in place only.
    """

    def __init__(self, potential: Potential) -> None:
        self.plain = potential
        self.last: Any = None
        self.repeats = 0
        self.recordings: dict[Any, Recording] = {}
        self.works = True

    def __call__(self, state: Tensor) -> Tensor:
        """U ``(B,)`` at states ``(B, D)``, not recorded."""
        return self.plain(state)

    def value_and_grad(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient."""
        key = (state.shape, state.dtype, torch.is_autocast_enabled("cuda"))
        if key not in self.recordings and not self._ready(key):
            return value_and_grad(self.plain, state)
        try:
            recording = self._recording(key, state)
        except RuntimeError as error:
            self.works = False
            rank_zero_warn(f"chains run without a CUDA graph: {first_line(error)}")
            torch.cuda.synchronize()
            return value_and_grad(self.plain, state)
        recording.state.copy_(state)
        recording.graph.replay()
        value, grad = recording.result
        return value.clone(), grad.clone()

    def _ready(self, key: Any) -> bool:
        """Whether a shape comes often enough to record it: more than three times in a row."""
        self.repeats = self.repeats + 1 if key == self.last else 1
        self.last = key
        return self.works and self.repeats > WARM_UP

    def _recording(self, key: Any, state: Tensor) -> Recording:
        """The recording for a shape, made at the first call."""
        if key not in self.recordings:
            if len(self.recordings) == GRAPHS:
                self.recordings.pop(next(iter(self.recordings)))
            self.recordings[key] = record(self.plain, state)
        return self.recordings[key]


def record(potential: Potential, state: Tensor) -> Recording:
    """Record the gradient of a potential at states of one shape."""
    static = state.detach().clone()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        result = value_and_grad(potential, static)
    return Recording(graph, static, result)


def accelerated(potential: Potential, device: torch.device, *, compile: bool) -> Potential:
    """The fastest form of a potential: compiled if asked for, and recorded on a CUDA device.

    Args:
        potential: U; its weights may change in place only.
        device: Where its states are.
        compile: Use ``torch.compile``.
    """
    if compile:
        potential = CompiledPotential(potential)
    return GraphedPotential(potential) if device.type == "cuda" else potential
