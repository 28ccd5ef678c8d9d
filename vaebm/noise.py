"""Random numbers that depend on nothing but a seed and a place.

`seed_everything` seeds all ranks alike, so chains would repeat across devices; and a global
generator's state depends on everything that ran before. Every draw of this package therefore comes
from a generator made of a purpose and a few integers: seed, rank and step in training, seed and
sample number in sampling.
"""

import os
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Generator, Tensor

from vaebm.errors import UsageError


class Purpose(IntEnum):
    """What numbers are drawn for: one seed gives every purpose streams of its own."""

    TRAINING = 0
    EVALUATION = 1
    DATA = 2
    ORDER = 3
    SAMPLES = 4
    PANELS = 5
    FLIPS = 6
    ITEMS = 7
    RECALIBRATION = 8
    CHAINS = 9
    ANNEALING = 10
    IMPORTANCE = 11
    OUTSIDE = 12
    ANNEALING_DOWN = 13


def generator_for(*place: int, device: torch.device | str = "cpu") -> Generator:
    """A generator whose stream is a function of some integers, e.g. (purpose, seed, step).

    Args:
        *place: Integers, each in [0, 2⁶⁴).
        device: Device on which it draws.

    Returns:
        A generator; different places give independent streams.

    Raises:
        UsageError: If an integer is out of range.
    """
    if not all(0 <= number < 2**64 for number in place):
        raise UsageError(f"a seed is an integer from 0 to 2^64 - 1, not {min(place)}")
    # SeedSequence alone takes (1,), (1, 0) and (1, 0, 0) for one seed, and 2³² for (0, 1).
    words = np.array(place, np.uint64).view(np.uint32).tolist()
    seed = int(np.random.SeedSequence([len(place), *words]).generate_state(1, np.uint64)[0])
    return Generator(device).manual_seed(seed)


class RowGenerators(Generator):
    """A generator with an independent stream for every row of a batch.

    With it a chain is a function of its own seed, whatever the batch size or number of processes.
    Draw with `standard_normal`, which asks each row's stream for that row. A sampler that calls
    ``torch.randn(..., generator=...)`` instead still runs, on the stream of the first row.

    Args:
        seed: Seed of all rows.
        indices: Number of each row in the whole set.
        device: Device on which it draws.
        purpose: What it draws for.
    """

    rows: list[Generator]

    def __new__(
        cls,
        seed: int,
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        purpose: Purpose = Purpose.SAMPLES,
    ) -> "RowGenerators":
        """Make the base generator on the rows' device."""
        return super().__new__(cls, device)  # type: ignore[call-arg]

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        device: torch.device | str = "cpu",
        purpose: Purpose = Purpose.SAMPLES,
    ) -> None:
        super().__init__()
        self.rows = [generator_for(purpose, seed, index, device=device) for index in indices]
        self.manual_seed(self.rows[0].initial_seed())

    def select(self, rows: Sequence[int]) -> "RowGenerators":
        """The streams of some rows; they go on from where they are."""
        selected = RowGenerators.__new__(RowGenerators, 0, rows, self.device)
        selected.rows = [self.rows[row] for row in rows]
        # Who draws with torch.randn gets another stream at each selection, not the same again.
        seed = torch.randint(2**62, (), generator=self, device=self.device)
        selected.manual_seed(int(seed))
        return selected


def rows_of(generator: Generator | None, rows: Tensor) -> Generator | None:
    """The source of the noise of some rows of a batch: their streams, or the one that all share."""
    return generator.select(rows.tolist()) if isinstance(generator, RowGenerators) else generator


def standard_normal(
    batch_size: int, *shape: int, generator: Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw N(0, 1) noise, row by row if the generator has rows.

    Args:
        batch_size: Rows B.
        *shape: Shape of one row.
        generator: Source of the numbers; None is torch's global one.
        device: Device of the result; a generator on another device draws there and is copied.

    Returns:
        Noise of the default dtype, but never of half precision, ``(B, *shape)``.

    Raises:
        ValueError: If the generator has another number of rows.
    """
    source = device if generator is None else generator.device
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    if isinstance(generator, RowGenerators):
        if len(generator.rows) != batch_size:
            raise ValueError(f"{len(generator.rows)} row generators for {batch_size} rows")
        rows = [
            torch.randn(shape, generator=row, device=source, dtype=dtype) for row in generator.rows
        ]
        return torch.stack(rows).to(device)
    noise = torch.randn(batch_size, *shape, generator=generator, device=source, dtype=dtype)
    return noise.to(device)


def uniform(
    batch_size: int, *shape: int, generator: Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw uniform numbers in [0, 1), row by row if the generator has rows.

    See `standard_normal` for the arguments.
    """
    # Φ(n) of a standard normal is uniform, and one drawing routine is enough.
    normal = standard_normal(batch_size, *shape, generator=generator, device=device)
    probability: Tensor = torch.special.ndtr(normal)
    return probability.clamp(max=1 - 2**-24)


def run_seed() -> int:
    """The seed of this run: what `seed_everything` was given, 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
