r"""Every sampler on one trained VAEBM of 25 Gaussians, from the prior, at equal cost.

The trained density is known by quadrature, so that what a sampler does wrong can be told from what
the model does: the total variation between samples and density over 26 cells (4 standard deviations
around each centre, and the rest), and the error of the modes' width. A cost of 1 is one evaluation
of U, with or without gradient.

    vaebm fit --config gaussians25_vae.yaml
    vaebm fit --config gaussians25_ebm.yaml \
        --model.vae_checkpoint runs/gaussians25_vae/version_0/checkpoints/last.ckpt
    python examples/compare_samplers.py \
        --ckpt_path runs/gaussians25_ebm/version_0/checkpoints/last.ckpt
"""

import argparse
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from vaebm.datamodules import Gaussians25DataModule
from vaebm.diagnostics import Trace, record, summary
from vaebm.ebm_stage import EBMStage
from vaebm.metrics.quadrature import DensityGrid, prior_mixture, vaebm_on_grid
from vaebm.noise import generator_for
from vaebm.samplers import (
    HMCSampler,
    IndependenceSampler,
    LangevinSampler,
    MALASampler,
    MixtureSampler,
    PCNLangevinSampler,
    Sampler,
)

JUMPS = IndependenceSampler()
SAMPLERS: dict[str, Sampler] = {
    "Langevin, η 3e-4": LangevinSampler(step_size=3e-4),
    "Langevin, η 1e-3": LangevinSampler(step_size=1e-3),
    "MALA, η 1e-3": MALASampler(step_size=1e-3),
    "MALA, η 4e-3": MALASampler(step_size=4e-3),
    "pCN Langevin, η 1e-3": PCNLangevinSampler(step_size=1e-3),
    "pCN Langevin, η 4e-3": PCNLangevinSampler(step_size=4e-3),
    "HMC, h 0.03, 5 steps": HMCSampler(step_size=0.03),
    "HMC, h 0.05, 5 steps": HMCSampler(step_size=0.05),
    "jumps": JUMPS,
    "jumps 5 : MALA, η 2e-3, 5": MixtureSampler([JUMPS, MALASampler(step_size=2e-3)]),
    "jumps 5 : HMC, h 0.05, 1": MixtureSampler([JUMPS, HMCSampler(step_size=0.05)], [5, 1]),
}


class Exact(NamedTuple):
    """What of the trained density samples are held against."""

    cells: Tensor
    width: float


def nearest(points: Tensor, data: Gaussians25DataModule) -> tuple[Tensor, Tensor]:
    """Cell of each point, 25 for the rest, and its squared distance to the centre."""
    squares, cell = (points[:, None] - data.centers.to(points)).square().sum(2).min(1)
    return torch.where(squares <= (4 * data.std) ** 2, cell, len(data.centers)), squares


def exact(grid: DensityGrid, data: Gaussians25DataModule) -> Exact:
    """Cell probabilities and mean width of the modes, by quadrature."""
    weight = (grid.log_prob_vaebm.exp() * grid.cell_area).flatten()
    cell, squares = nearest(torch.cartesian_prod(grid.axis_x, grid.axis_y), data)
    count = len(data.centers) + 1
    inside = cell < count - 1
    mean = (weight * squares)[inside].sum() / weight[inside].sum()
    return Exact(torch.bincount(cell, weight, count), sqrt(mean / 2) / data.std)


def errors(points: Tensor, truth: Exact, data: Gaussians25DataModule) -> tuple[float, float]:
    """Total variation over cells, and relative error of the width."""
    cell, squares = nearest(points.double(), data)
    share = torch.bincount(cell, minlength=len(truth.cells)).double() / len(points)
    width = sqrt(squares[cell < len(truth.cells) - 1].mean() / 2) / data.std
    return float((share - truth.cells).abs().sum() / 2), width / truth.width - 1


def noise_floor(truth: Exact, count: int) -> float:
    """Mean total variation of as many exact draws."""
    shares = torch.distributions.Multinomial(count, truth.cells).sample((200,)) / count
    return float((shares - truth.cells).abs().sum(1).mean() / 2)


def trace(stage: EBMStage, sampler: Sampler, chains: int, budget: int) -> Trace:
    """Run chains from the prior until each has cost `budget`, and follow the points."""
    generator = generator_for(1)
    start = stage.space.start(stage.vae, chains, generator=generator)
    with stage.frozen_potential() as potential:
        pilot = record(sampler, potential, start[:50], {}, num_steps=20, generator=generator)
        cost = (pilot.gradients + pilot.evaluations) / 20
        axes = {
            "x": lambda chain: stage.space.image(stage.vae, chain.state)[:, 0],
            "y": lambda chain: stage.space.image(stage.vae, chain.state)[:, 1],
        }
        steps = max(int(budget / cost), 4)
        return record(sampler, potential, start, axes, num_steps=steps, generator=generator)


def row(
    name: str, found: Trace, budgets: list[int], truth: Exact, data: Gaussians25DataModule
) -> tuple[str, list[float]]:
    """A line of the table, and the total variations for the picture."""
    xs, ys = found.values["x"], found.values["y"]
    cost = (found.gradients + found.evaluations) / len(xs)
    cells, distances = [], []
    for budget in budgets:
        index = min(max(round(budget / cost), 1), len(xs)) - 1
        distance, width = errors(torch.stack([xs[index], ys[index]], 1), truth, data)
        distances.append(distance)
        cells.append(f"{distance:.3f} / {width:+.1%}")
    draws = summary(xs[len(xs) // 2 :, :200])
    share = draws.ess / 200 / (len(xs) - len(xs) // 2)  # effective draws of one step
    accept = "" if found.accept_prob is None else f"{float(found.accept_prob.mean()):.2f}"
    seconds = found.seconds / len(xs) / xs.shape[1]
    per_cost, per_second = share / cost, share / seconds
    figures = [name, *cells, accept, f"{1000 * per_cost:.2g}", f"{per_second:.3g}"]
    return f"| {' | '.join(figures)} |", distances


def draw(curves: dict[str, list[float]], budgets: list[int], floor: float) -> Figure:
    """Total variation against cost."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for index, (name, distances) in enumerate(curves.items()):
        axis.plot(budgets, distances, "o-", label=name, color=f"C{index % 10}", markersize=3)
    axis.axhline(floor, color="black", linestyle=":", label="exact draws")
    axis.set(xscale="log", yscale="log", xlabel="evaluations of U a chain")
    axis.set_ylabel("total variation over mode cells")
    axis.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint of gaussians25_ebm")
    parser.add_argument("--chains", type=int, default=10_000)
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 50, 100, 250])
    parser.add_argument("--output", type=Path, default=Path("runs/samplers"))
    options = parser.parse_args()
    stage = EBMStage.load_from_checkpoint(
        options.ckpt_path, map_location="cpu", weights_only=True
    ).eval()
    data = Gaussians25DataModule()
    torch.manual_seed(0)  # of the noise floor's draws; chains have generators of their own
    truth = exact(vaebm_on_grid(prior_mixture(stage.vae), stage.energy), data)
    floor = noise_floor(truth, options.chains)
    titles = [f"{budget} evaluations" for budget in options.budgets]
    names = ["sampler", *titles, "accepted", "ESS per 1,000 evaluations", "ESS per second"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    curves = {}
    for name, sampler in SAMPLERS.items():
        found = trace(stage, sampler, options.chains, max(options.budgets))
        line, curves[name] = row(name, found, options.budgets, truth, data)
        lines.append(line)
        print(line, flush=True)
    lines += ["", f"Exact draws: {floor:.3f}. Width of the exact modes: {truth.width:.3f}."]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "samplers.md").write_text("\n".join(lines) + "\n")
    draw(curves, options.budgets, floor).savefig(options.output / "samplers.png", dpi=110)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
