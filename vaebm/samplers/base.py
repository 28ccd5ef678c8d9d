"""Contracts of the samplers: Potential, Chain, StepInfo, Sampler, and the only loop over steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Generator, Tensor

from vaebm.configurable import Configurable
from vaebm.errors import UsageError
from vaebm.registry import Registry

Potential: TypeAlias = Callable[[Tensor], Tensor]
"""Maps states ``(B, D)`` to potentials U ``(B,)``; the target density is ∝ exp(−U)."""


class Chain(NamedTuple):
    """Where a batch of chains stands; all that the next step needs.

    Attributes:
        state: Positions, ``(B, D)``, float32 or wider.
        potential: U at `state`, ``(B,)``, where the kernel knows it already.
        grad: ∂U/∂state at `state`, ``(B, D)``, where the kernel knows it already. In a mixture it
            can be NaN for chains whose gradient is not known.
        before: Where it stood a step ago, for kernels that compare the two; goes back no further.
        memory: What the kernel itself carries from step to step, such as step sizes it adapts: a
            tuple of tensors of B rows, or of such tuples.
        progress: How much of the chain is done, 0 at the first step and 1 at the last.
    """

    state: Tensor
    potential: Tensor | None = None
    grad: Tensor | None = None
    before: "Chain | None" = None
    memory: Any = None
    progress: float = 0.0


class StepInfo(NamedTuple):
    """What a person wants to see of a step; never fed back.

    Attributes:
        potential: U where the kernel knows it, ``(B,)``: unadjusted Langevin dynamics at the start
            of the step, the others at its end.
        grad_norm: ‖∂U/∂state‖ there, ``(B,)``; zero for kernels without gradient.
        accept_prob: Probability with which a Metropolis test accepted the move, ``(B,)``. Kernels
            without a test may tell what it would have said of the move before this one, which
            costs nothing; 1 at a chain's first step, which has none before.
    """

    potential: Tensor
    grad_norm: Tensor
    accept_prob: Tensor | None = None


class Sampler(Configurable, ABC):
    """A transition kernel and the loop that repeats it.

    A plug-in derives from this class and implements `step`, one whole transition.

    Args:
        num_steps: Transitions of a chain, at least 1.

    Attributes:
        uses_start: Whether a chain's end depends on its start; without, replay makes no sense.
        needs_gradient: Whether a step may read `Chain.grad`; if so, a mixture evaluates it first
            where another kernel's move left it unknown.
    """

    uses_start = True
    needs_gradient = True

    @property
    def leaves_target(self) -> bool:
        """Whether a step leaves the target exactly as it is: a chain there from draws of it stays.

        A kernel with a Metropolis test does, unless it adapts; unadjusted ones have a bias.
        """
        return False

    def __init__(self, num_steps: int) -> None:
        self.num_steps = check_num_steps(num_steps)

    def first(self, state: Tensor) -> Chain:
        """Chains at their first states; a kernel with a memory makes it here.

        Args:
            state: First states, ``(B, D)``.
        """
        return Chain(state)

    @abstractmethod
    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        """Make one transition of every chain.

        Args:
            potential: U of the target, ∝ −log density.
            chain: Where the chains stand.
            generator: Source of all randomness; draw with `vaebm.noise.standard_normal`.

        Returns:
            Where the chains stand now, and what happened.
        """

    def run(
        self,
        potential: Potential,
        start: Tensor,
        *,
        num_steps: int | None = None,
        generator: Generator | None = None,
    ) -> tuple[Tensor, StepInfo]:
        """Run chains from a start.

        Works under ``no_grad`` and inference mode, and leaves no gradient on any parameter.

        Args:
            potential: U of the target.
            start: First states, ``(B, D)``; not changed.
            num_steps: Transitions, instead of the sampler's own number.
            generator: Source of all randomness.

        Returns:
            The last states ``(B, D)``, detached, and the infos stacked to ``(K, B)``.
        """
        steps = self.iterate(potential, start, num_steps=num_steps, generator=generator)
        infos = []
        for chain, info in steps:  # noqa: B007 (the last one is used)
            infos.append(info)
        return chain.state.detach(), stack_infos(infos)

    def iterate(
        self,
        potential: Potential,
        start: Tensor,
        *,
        num_steps: int | None = None,
        generator: Generator | None = None,
    ) -> Iterator[tuple[Chain, StepInfo]]:
        """Run chains and yield where they stand after every step; `run` keeps the last only.

        The arguments are those of `run`.
        """
        num_steps = check_num_steps(self.num_steps if num_steps is None else num_steps)
        with torch.inference_mode(False):
            # Never half precision: a Langevin step's noise would vanish in the rounding.
            dtype = torch.promote_types(start.dtype, torch.float32)
            chain = self.first(start.detach().to(dtype, copy=True))
        for index in range(num_steps):
            # Within the step only: what runs between two steps keeps its own mode.
            with torch.inference_mode(False), torch.enable_grad():
                chain = chain._replace(progress=index / max(num_steps - 1, 1))
                found = self.step(potential, chain, generator=generator)
            chain, info = checked(found, type(self).__name__, chain.state.shape)
            yield chain, info


def checked(found: Any, name: str, shape: torch.Size) -> tuple[Chain, StepInfo]:
    """What a kernel's step returned, if it keeps the contract; only shapes are looked at.

    Raises:
        UsageError: Says what a plug-in returned instead.
    """
    if not (isinstance(found, tuple) and [*map(type, found)] == [Chain, StepInfo]):
        raise UsageError(f"{name}.step must return a Chain and a StepInfo")
    chain, info = found
    for what, value, due in (
        ("a state", chain.state, shape),
        ("a potential", info.potential, shape[:1]),
        ("a grad_norm", info.grad_norm, shape[:1]),
        ("an accept_prob", info.accept_prob, shape[:1]),
    ):
        if value is None and what == "an accept_prob":
            continue
        if not isinstance(value, Tensor) or value.shape != due:
            kind = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"{name}.step returned {what} of {kind}, but {tuple(due)} is due")
    return chain, info


def check_num_steps(num_steps: int) -> int:
    """Refuse chains without steps."""
    if num_steps < 1:
        raise UsageError(f"num_steps is {num_steps}, but a chain takes at least 1 step")
    return num_steps


def stack_infos(infos: list[StepInfo]) -> StepInfo:
    """Stack the infos of K steps to fields of shape ``(K, B)``."""
    accept = [info.accept_prob for info in infos if info.accept_prob is not None]
    return StepInfo(
        torch.stack([info.potential.detach() for info in infos]),
        torch.stack([info.grad_norm.detach() for info in infos]),
        torch.stack(accept) if accept else None,
    )


def value_and_grad(potential: Potential, state: Tensor) -> tuple[Tensor, Tensor]:
    """U ``(B,)`` and ∂ΣU/∂state ``(B, D)`` at `state`, both detached.

    Only the state is differentiated: parameters get no gradient and no DDP hook fires. A potential
    that has a faster way brings a method ``value_and_grad(state)``.
    """
    own = getattr(potential, "value_and_grad", None)
    if own is not None:
        value, grad = own(state)
        return value, grad
    state = state.detach().requires_grad_()
    value = potential(state)
    (grad,) = torch.autograd.grad(value.sum(), state)
    return value.detach(), grad


samplers: Registry[Sampler] = Registry("vaebm.samplers", Sampler)
