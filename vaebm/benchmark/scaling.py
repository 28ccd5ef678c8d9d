"""How the time of a chain grows with its steps, the batch and the groups of latents."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vaebm.benchmark.clock import Work, by_turns, timed
from vaebm.benchmark.contestants import Contestant, variant
from vaebm.ebm_stage import EBMStage


class Growth(NamedTuple):
    """Times, and the line through them.

    Attributes:
        sizes: What grows.
        seconds: Median time at each size.
        slope: Seconds that one more takes.
        intercept: Seconds at none.
        residuals: Time beyond the line, relative to the line.
    """

    sizes: Sequence[int]
    seconds: Sequence[float]
    slope: float
    intercept: float
    residuals: Sequence[float]


def growth(times: Mapping[int, float]) -> Growth:
    """Fit a line by least squares.

    Args:
        times: Seconds by size, of at least two sizes.
    """
    sizes, seconds = list(times), list(times.values())
    slope, intercept = (float(value) for value in np.polyfit(sizes, seconds, 1))
    line = [slope * size + intercept for size in sizes]
    residuals = [time / fit - 1 for time, fit in zip(seconds, line, strict=True)]
    return Growth(sizes, seconds, slope, intercept, residuals)


def scaling(stage: EBMStage, batch_size: int, rounds: int) -> dict[str, Growth]:
    """How a chain's time grows, by what grows; groups only where the VAE has some to drop.

    Args:
        stage: Stage 2.
        batch_size: Chains at once; the smallest batch.
        rounds: Calls of each size that count.
    """
    chains = Contestant(variant(stage))
    works: dict[str, dict[int, Work]] = {
        "steps": {steps: chains.chain(batch_size, steps) for steps in (1, 2, 4, 6)},
        "batch": {n * batch_size: chains.chain(n * batch_size, 1) for n in (1, 2, 3, 4)},
        "groups": {
            sum(groups): Contestant(with_groups(stage, groups)).chain(batch_size, 1)
            for groups in fewer_groups(stage)
        },
    }
    found = {}
    for name, sizes in works.items():
        if len(sizes) > 1:
            by_name = {str(size): work for size, work in sizes.items()}
            times = by_turns(timed(by_name, stage.device), rounds)
            found[name] = growth({int(size): timing.median for size, timing in times.items()})
    return found


def fewer_groups(stage: EBMStage) -> list[tuple[int, ...]]:
    """Latent groups at each scale of a quarter, half, three quarters and all of a VAE."""
    groups: Sequence[int] = stage.vae.init_args.get("groups_per_scale", ())
    parts = [tuple(max(1, round(n * part / 4)) for n in groups) for part in (1, 2, 3, 4)]
    return sorted({sum(part): part for part in parts if part}.values(), key=sum)


def with_groups(stage: EBMStage, groups: tuple[int, ...]) -> EBMStage:
    """The stage on a new VAE of other numbers of groups."""
    vae = type(stage.vae)(**{**stage.vae.init_args, "groups_per_scale": groups})
    return variant(stage, vae=vae)
