"""Time by turns, so that a busy machine slows down all that is compared."""

import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

import torch

Work = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


class Timing(NamedTuple):
    """Seconds of one call.

    Attributes:
        median: Of all rounds.
        low: The fastest.
        high: The slowest.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Median and spread."""
        return cls(median(seconds), min(seconds), max(seconds))


def seconds(work: Work, device: torch.device) -> float:
    """Time of one call, until the device is done."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait for all that was asked of a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def by_turns(
    timers: Mapping[Name, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[Name, Timing]:
    """Ask several timers, each once a round.

    Args:
        timers: What tells the seconds of one call, by name.
        rounds: Calls of each that count.
        warm_up: Calls of each before, which do not count.
    """
    times: dict[Name, list[float]] = {name: [] for name in timers}
    for timer in timers.values():
        for _ in range(warm_up):
            timer()
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer())
    return {name: Timing.of(values) for name, values in times.items()}


def timed(works: Mapping[Name, Work], device: torch.device) -> dict[Name, Callable[[], float]]:
    """Timers of pieces of work."""
    return {name: partial(seconds, work, device) for name, work in works.items()}
