"""Persistent chains: a ring of earlier chain ends from which some chains start again."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Generator, Tensor

from vaebm.configurable import Configurable
from vaebm.errors import UsageError


class ReplayBuffer(Configurable):
    """A ring of chain states, one preallocated ``(capacity, D)`` tensor.

    Each chain starts from a stored state with probability p, else from a fresh one. p grows
    linearly, p = reuse_prob · min(1, step / ramp_steps). The whole state is stored, pixel noise
    included. It is no registered buffer of any module: ranks keep their own chains, averages of
    weights leave them alone, and checkpoints hold them in a file of their own.

    Args:
        capacity: Number of stored chains, per rank.
        reuse_prob: Largest probability of reuse, in [0, 1].
        ramp_steps: Training steps until it is reached.
        device: Where the ring lies: ``cpu``, or ``cuda`` to save copies.
        redistribute: Resume on another number of processes, with the chains of all of them dealt
            out again; no training on one number of processes is the same as that.

    References:
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), section 3.2, "persistent chains".
    """

    def __init__(
        self,
        capacity: int = 10_000,
        reuse_prob: float = 0.6,
        ramp_steps: int = 5_000,
        device: str = "cpu",
        redistribute: bool = False,
    ) -> None:
        if not 0 <= reuse_prob <= 1:
            raise UsageError(f"reuse_prob is {reuse_prob}, but a probability is in [0, 1]")
        if capacity < 1 or ramp_steps < 0:
            raise UsageError("ReplayBuffer needs capacity ≥ 1 and ramp_steps ≥ 0")
        self.capacity = capacity
        self.reuse_prob = reuse_prob
        self.ramp_steps = ramp_steps
        self.device = device
        self.redistribute = redistribute
        # Allocated at the first push: the dimension is known then, and the copy of the model that
        # weight averaging makes before training does not double the memory.
        self._ring: Tensor | None = None
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        """Number of chains stored now."""
        return self._size

    def reuse_prob_at(self, global_step: int) -> float:
        """The probability of reuse at a training step."""
        ramp = min(1.0, global_step / self.ramp_steps) if self.ramp_steps else 1.0
        return self.reuse_prob * ramp

    def mix(self, fresh: Tensor, global_step: int, *, generator: Generator | None) -> Tensor:
        """Replace some rows of `fresh` by stored chains, drawn without replacement.

        Args:
            fresh: New chain starts, ``(B, D)``.
            global_step: Training step, for the ramp.
            generator: Source of the choice.

        Returns:
            Chain starts, ``(B, D)``, on the device of `fresh`.
        """
        if self._ring is None:
            return fresh
        source = "cpu" if generator is None else generator.device
        draws = torch.rand(len(fresh), generator=generator, device=source)
        order = torch.randperm(self._size, generator=generator, device=source)
        reuse = (draws < self.reuse_prob_at(global_step)).nonzero().squeeze(1)[: self._size]
        stored = self._ring[order[: len(reuse)].to(self._ring.device)]
        return fresh.index_copy(0, reuse.to(fresh.device), stored.to(fresh))

    @torch.inference_mode(False)  # the ring outlives the call, an inference tensor could not change
    def push(self, state: Tensor) -> None:
        """Store chain ends; the oldest ones give way.

        Args:
            state: Chain states, ``(B, D)``; of more than `capacity` rows the last ones stay.
        """
        state = state.detach()[-self.capacity :]
        if self._ring is None:
            shape = (self.capacity, state.shape[1])
            self._ring = torch.empty(shape, dtype=state.dtype, device=self.device)
        index = (self._next + torch.arange(len(state))) % self.capacity
        self._ring[index.to(self._ring.device)] = state.to(self._ring.device)
        self._next = (self._next + len(state)) % self.capacity
        self._size = min(self._size + len(state), self.capacity)

    def require_capacity(self, batch_size: int) -> None:
        """Refuse batches that would not fit.

        Raises:
            UsageError: If one batch of chains is more than the capacity.
        """
        if batch_size > self.capacity:
            raise UsageError(
                f"the replay buffer's capacity is {self.capacity}, which is less than the "
                f"{batch_size} chains of one batch"
            )

    def clear(self) -> None:
        """Forget all chains; those to come start afresh."""
        self._next = self._size = 0

    def state_dict(self) -> dict[str, Tensor | int]:
        """The stored chains and where the ring stands, as tensors and integers."""
        ring = torch.empty(0, 0) if self._ring is None else self._ring[: self._size].clone()
        return {"ring": ring, "next": self._next, "capacity": self.capacity}

    def load_share(self, states: Sequence[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take every n-th of the chains that several buffers gave, the newest if they are too many.

        Args:
            states: What `state_dict` gave, of all ranks.
            rank: Which share to take.
            world_size: Number of shares n.
        """
        rings = [
            # The oldest first, as they were pushed.
            state["ring"].roll(-state["next"] if len(state["ring"]) == state["capacity"] else 0, 0)
            for state in states
        ]
        newest_first = zip_longest(*(reversed(ring) for ring in rings))
        chains = [chain for chains in newest_first for chain in chains if chain is not None]
        self._ring, self._next, self._size = None, 0, 0
        if chains[rank::world_size]:
            self.push(torch.stack(chains[rank::world_size]).flip(0))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            UsageError: If the capacity differs.
        """
        if state["capacity"] != self.capacity:
            raise UsageError(
                f"stored chains are of capacity {state['capacity']}, the buffer's is "
                f"{self.capacity}; set capacity to the stored one to resume"
            )
        self._ring, self._next, self._size = None, 0, 0
        if len(state["ring"]):
            self.push(state["ring"])
            self._next = state["next"]
