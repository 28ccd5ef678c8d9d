"""How close NVAE's decode comes to what this machine's convolutions can do.

Times the forward and backward pass of `decode` to the noise, as every Langevin step needs it, next
to single convolutions in the same rounds, and prints floating-point operations per second and their
ratio. Absolute times are noise on a busy machine; the ratio is not.

    python benchmarks/decode.py --batch_size 4 --rounds 5
"""

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from vaebm.models import NVAE

CONVOLUTIONS = {  # channels in, out, kernel, side: the shapes that NVAE spends its time in
    "1x1, 256 to 1536, 16x16": (256, 1536, 1, 16),
    "3x3, 128 to 128, 32x32": (128, 128, 3, 32),
}


def giga_flops(work: Callable[[], object]) -> float:
    """Floating-point operations of one call, in 10⁹."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def convolution(
    shape: tuple[int, int, int, int], batch: int, device: torch.device
) -> Callable[[], object]:
    """Forward and backward pass of one convolution, to its input alone."""
    width_in, width_out, kernel, side = shape
    conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False)
    conv = conv.to(device, memory_format=torch.channels_last).requires_grad_(False)
    image = torch.randn(batch, width_in, side, side, device=device)
    image = image.to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn_like(conv(image.detach()))

    def work() -> object:
        state = image.clone()  # the operations counter cannot follow gradients to a leaf
        return torch.autograd.grad(conv(state), state, weight)

    return work


def decoding(vae: NVAE, batch: int, device: torch.device) -> Callable[[], object]:
    """Forward and backward pass of `decode`, to the noise."""
    eps = torch.randn(batch, vae.noise_dim, device=device, requires_grad=True)
    weight = torch.randn(batch, *vae.image_shape, device=device)

    def work() -> object:
        state = eps.clone()
        return torch.autograd.grad(vae.decode(state).image, state, weight)

    return work


def measure(batch: int, groups: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Medians over alternating rounds, in 10⁹ operations per second."""
    vae = NVAE(groups_per_scale=[groups]).to(device).eval().requires_grad_(False)
    works = {name: convolution(s, batch, device) for name, s in CONVOLUTIONS.items()}
    works["decode, forward and backward"] = decoding(vae, batch, device)
    times: dict[str, list[float]] = {name: [] for name in works}
    with parametrize.cached():  # as in a chain: the weights do not change
        operations = {name: giga_flops(work) for name, work in works.items()}
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(seconds(work, device))
    rates = {name: operations[name] / median(times[name]) for name in works}
    peak = max(rates[name] for name in CONVOLUTIONS)
    forward = giga_flops(lambda: vae.decode(torch.zeros(1, vae.noise_dim, device=device)))
    return {
        **{f"GFLOP/s of {name}": rate for name, rate in rates.items()},
        "GFLOP of one image, forward": forward,
        "seconds of decode, forward and backward": median(times["decode, forward and backward"]),
        "share of the convolution throughput": rates["decode, forward and backward"] / peak,
    }


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--groups", type=int, default=30, help="latent groups; CIFAR-10 has 30")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    figures = measure(
        options.batch_size, options.groups, options.rounds, torch.device(options.device)
    )
    for name, value in figures.items():
        print(f"{name:45} {value:10.4g}")
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
