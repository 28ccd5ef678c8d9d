"""How much memory the tensors of a piece of work take at its peak."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from vaebm.benchmark.clock import Work


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors that were made inside and are still in use.

    Attributes:
        now: Bytes in use.
        peak: The most there were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the memory behind each result."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; views share one."""
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.now += size

        def freed(_: Any) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)


def peak_bytes(work: Work, device: torch.device) -> int:
    """Peak of the memory that a piece of work takes beyond what was there before.

    Args:
        work: The work.
        device: Where it is done; on a CUDA device torch's allocator counts.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    live = LiveTensors()
    with live:
        work()
    return live.peak


def weight_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters and buffers; one that is shared counts once."""
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum(dict((storage.data_ptr(), storage.nbytes()) for storage in storages).values())
