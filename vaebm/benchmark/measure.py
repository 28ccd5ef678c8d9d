"""Measures all that `vaebm benchmark` tells, from a stage to plain figures."""

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from vaebm.acceleration import WARM_UP
from vaebm.benchmark.clock import by_turns, timed
from vaebm.benchmark.contestants import Contestant, contestants, variant
from vaebm.benchmark.machine import ConvolutionCalls, flops_of, standard_works
from vaebm.benchmark.memory import peak_bytes, weight_bytes
from vaebm.benchmark.scaling import scaling
from vaebm.ebm_stage import EBMStage

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ALONE = "convolutions of a step"  # and nothing else


class Settings(NamedTuple):
    """What to measure.

    Attributes:
        batch_size: Images and chains at once.
        num_steps: Steps of the chains; None takes the sampler's own number.
        rounds: How often everything is timed.
        compile: Time compiled chains too.
        scaling: Time other batches, chain lengths and numbers of groups too.
    """

    batch_size: int = 4
    num_steps: int | None = None
    rounds: int = 3
    compile: bool = True
    scaling: bool = True


def benchmark(stage: EBMStage, settings: Settings) -> dict[str, Any]:
    """All figures of a stage on its device.

    Args:
        stage: Stage 2, on its device; not changed.
        settings: What to measure.
    """
    stage = variant(stage)
    if settings.num_steps is not None:
        stage.sampler.num_steps = settings.num_steps
    rivals = contestants(stage, compile=settings.compile)
    batch = settings.batch_size
    memory = {name: memory_of(rivals[name], batch) for name in ("baseline", *PRECISIONS)}
    figures: dict[str, Any] = {
        "device": device_name(stage.device),
        "torch": torch.__version__,
        "batch_size": batch,
        "num_steps": stage.sampler.num_steps,
        "rounds": settings.rounds,
        "parameters": parameters(rivals["fp32"].stage),
        "memory": memory,
        "memory_ratio": memory["fp32"] / memory["baseline"],
    }
    rank_zero_info("benchmark: memory is measured, next single steps")
    figures |= single_steps(rivals, settings)
    if settings.compile and not rivals["compiled"].stage.chain_potential.is_compiled:
        del rivals["compiled"], figures["seconds"]["step"]["compiled"]
    rank_zero_info("benchmark: steps are timed, next iterations and samples")
    whole = whole_work(rivals, settings)
    figures["seconds"]["iteration"] = whole["iteration"]
    figures["ratio"] = ratios(figures["seconds"])
    figures["samples_per_second"] = whole["samples_per_second"]
    rank_zero_info("benchmark: iterations are timed, next how the cost grows")
    grown = scaling(stage, batch, settings.rounds) if settings.scaling else {}
    return {**figures, "scaling": {name: growth._asdict() for name, growth in grown.items()}}


def memory_of(rival: Contestant, batch_size: int) -> int:
    """Bytes of weights, and of all else at the peak of the first iteration."""
    weights = weight_bytes(rival.stage)
    return weights + peak_bytes(rival.iteration(batch_size), rival.stage.device)


def single_steps(rivals: Mapping[str, Contestant], settings: Settings) -> dict[str, Any]:
    """Times of a Langevin step and, in the same rounds, of what the machine can do at best."""
    device, batch = rivals["fp32"].stage.device, settings.batch_size
    steps = {name: rival.langevin_step(batch) for name, rival in rivals.items()}
    timers = {("step", name): timer for name, timer in timed(steps, device).items()}
    operations: dict[str, int] = {}
    flops: dict[tuple[str, str], int] = {}
    for name, dtype in PRECISIONS.items():
        # A stage of its own: operations that a CUDA graph repeats cannot be counted.
        rival = rivals[name]._replace(stage=variant(rivals[name].stage))
        step = rival.langevin_step(batch)
        with ConvolutionCalls() as alone:
            step()
        operations[name] = flops_of(step)
        if alone.calls:  # a network of linear layers has none
            flops[name, ALONE], timers[name, ALONE] = (
                operations[name],
                partial(alone.seconds, device),
            )
        works = standard_works(batch, device, dtype)
        flops |= {(name, kind): flops_of(work) for kind, work in works.items()}
        timers |= {(name, kind): timer for kind, timer in timed(works, device).items()}
    times = by_turns(timers, settings.rounds, warm_up(device))
    seconds = {key: timing.median for key, timing in times.items()}
    throughput: dict[str, dict[str, float]] = {name: {} for name in PRECISIONS}
    for (name, kind), count in flops.items():
        throughput[name][kind] = count / seconds[name, kind]
    return {
        "flops": {
            "step of the baseline": flops_of(steps["baseline"]),
            "step of ours": operations["fp32"],
        },
        "throughput": throughput,
        "peak_share": {
            f"step_{name}": seconds[name, ALONE] / seconds["step", name]
            for name, kind in flops
            if kind == ALONE
        },
        "seconds": {"step": {name: times["step", name]._asdict() for name in rivals}},
    }


def whole_work(rivals: Mapping[str, Contestant], settings: Settings) -> dict[str, Any]:
    """Times of an iteration of the training, and of samples."""
    device, batch = rivals["fp32"].stage.device, settings.batch_size
    works = {("iteration", name): rival.iteration(batch) for name, rival in rivals.items()}
    works |= {("samples", name): rivals[name].samples(batch) for name in PRECISIONS}
    times = by_turns(timed(works, device), settings.rounds)
    return {
        "iteration": {name: times["iteration", name]._asdict() for name in rivals},
        "samples_per_second": {n: batch / times["samples", n].median for n in PRECISIONS},
    }


def ratios(seconds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The baseline's median time over each other's."""
    return {
        f"{work}_{name}": timings["baseline"]["median"] / timing["median"]
        for work, timings in seconds.items()
        for name, timing in timings.items()
        if name != "baseline"
    }


def parameters(stage: EBMStage) -> dict[str, int]:
    """Numbers of weights: of the VAE, of what chains need of it, and of the energy."""
    networks: dict[str, nn.Module] = {
        "VAE": stage.vae,
        "generator": stage.decoder,
        "energy": stage.energy,
    }
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def warm_up(device: torch.device) -> int:
    """Calls after which a device is at its full speed, with what it records."""
    return WARM_UP + 2 if device.type == "cuda" else 1


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
