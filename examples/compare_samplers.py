r"""Every sampler on one trained VAEBM, from the prior, at equal cost.

The density of a model of 25 Gaussians is known by quadrature, so that what a sampler does wrong can
be told from what the model does: the error is the total variation between samples and density over
26 cells (4 standard deviations around each centre, and the rest), and the second figure that of the
modes' width. Of digits it is the Fréchet distance to the training images in a classifier's
features. A cost of 1 is one evaluation of U, with or without gradient.

    vaebm fit --config gaussians25_vae.yaml
    vaebm fit --config gaussians25_ebm.yaml \
        --model.vae_checkpoint runs/gaussians25_vae/version_0/checkpoints/last.ckpt
    python examples/compare_samplers.py \
        --ckpt_path runs/gaussians25_ebm/version_0/checkpoints/last.ckpt
"""

import argparse
import sys
from pathlib import Path

from judges import DigitsJudge, Judge, ToyJudge
from matplotlib.figure import Figure

from vaebm.diagnostics import Trace, record, summary
from vaebm.ebm_stage import EBMStage
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
TOY: dict[str, Sampler] = {
    "Langevin, η 3e-4": LangevinSampler(step_size=3e-4),
    "Langevin, η 1e-3": LangevinSampler(step_size=1e-3),
    "MALA, η 1e-3": MALASampler(step_size=1e-3),
    "MALA, η 4e-3": MALASampler(step_size=4e-3),
    "pCN Langevin, η 1e-3": PCNLangevinSampler(step_size=1e-3),
    "pCN Langevin, η 4e-3": PCNLangevinSampler(step_size=4e-3),
    "HMC, h 0.05, 5 steps": HMCSampler(step_size=0.05),
    "jumps": JUMPS,
    "jumps 9 : MALA, η 1e-3, 1": MixtureSampler([JUMPS, MALASampler(step_size=1e-3)], [9, 1]),
    "jumps 10 : HMC, h 0.03, 1": MixtureSampler([JUMPS, HMCSampler(step_size=0.03)], [10, 1]),
}
DIGITS: dict[str, Sampler] = {
    "Langevin, η 1e-2": LangevinSampler(step_size=1e-2),
    "Langevin, η 5e-2": LangevinSampler(step_size=5e-2),
    "MALA, η 1e-2": MALASampler(step_size=1e-2),
    "MALA, η 3e-2": MALASampler(step_size=3e-2),
    "pCN Langevin, η 1e-2": PCNLangevinSampler(step_size=1e-2),
    "pCN Langevin, η 3e-2": PCNLangevinSampler(step_size=3e-2),
    "HMC, h 0.1, 5 steps": HMCSampler(step_size=0.1),
    "HMC, h 0.15, 5 steps": HMCSampler(step_size=0.15),
    "jumps": JUMPS,
    "jumps 1 : MALA, η 2e-2, 1": MixtureSampler([JUMPS, MALASampler(step_size=2e-2)]),
    "jumps 5 : HMC, h 0.1, 1": MixtureSampler([JUMPS, HMCSampler(step_size=0.1)], [5, 1]),
}


def trace(stage: EBMStage, sampler: Sampler, chains: int, budget: int) -> Trace:
    """Run chains from the prior until each has cost `budget`, and follow their states."""
    generator = generator_for(1)
    start = stage.space.start(stage.vae, chains, generator=generator)
    with stage.frozen_potential() as potential:
        pilot = record(sampler, potential, start[:50], {}, num_steps=20, generator=generator)
        steps = max(int(budget * 20 / (pilot.gradients + pilot.evaluations)), 8)
        states = {"state": lambda chain: chain.state}
        return record(sampler, potential, start, states, num_steps=steps, generator=generator)


def judged(found: Trace, budgets: list[int], judge: Judge) -> tuple[list[float], list[str]]:
    """Error at every budget, and cells of the table: errors, cost of a small one, acceptance."""
    states = found.values["state"]
    cost = (found.gradients + found.evaluations) / len(states)
    places = [min(max(round(budget / cost), 1), len(states)) - 1 for budget in budgets]
    errors, cells = map(list, zip(*(judge.errors(states[place]) for place in places), strict=True))
    pairs = zip(budgets, errors, strict=True)
    reached = next((budget for budget, error in pairs if error <= judge.target), None)
    share = found.gradients / (found.gradients + found.evaluations)
    gradients = "" if reached is None else f"{reached} ({reached * share:.0f} with gradient)"
    accepted = "" if found.accept_prob is None else f"{float(found.accept_prob.mean()):.2f}"
    return errors, [*cells, gradients, accepted]


def mixing(found: Trace, judge: Judge) -> list[str]:
    """Split R-hat, and effective draws per 1,000 evaluations and second, after half the chain."""
    states = found.values["state"]
    figures = summary(judge.axis(states[len(states) // 2 :]))
    evaluations = (found.gradients + found.evaluations) * states.shape[1] / 2
    rates = 1000 * figures.ess / evaluations, figures.ess / (found.seconds / 2)
    return [f"{figures.rhat:.2f}", *(f"{rate:.2g}" for rate in rates)]


def draw(curves: dict[str, list[float]], budgets: list[int], judge: Judge) -> Figure:
    """Error against cost."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for index, (name, errors) in enumerate(curves.items()):
        style = "o-" if index < 10 else "s--"  # ten colours
        axis.plot(budgets, errors, style, label=name, markersize=3)
    axis.axhline(judge.floor, color="black", linestyle=":", label=judge.best)
    axis.set(xscale="log", yscale="log", xlabel="evaluations of U a chain", ylabel=judge.name)
    axis.set_xticks(budgets, [str(budget) for budget in budgets], minor=False)
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, help="of gaussians25_ebm or digits_ebm")
    parser.add_argument("--chains", type=int, help="4,000 of 25 Gaussians, 1,000 of digits")
    parser.add_argument("--budgets", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    parser.add_argument("--long", type=int, default=500, help="cost of the chains for the ESS")
    parser.add_argument("--output", type=Path, default=Path("runs/samplers"))
    asked = parser.parse_args()
    if not Path(asked.ckpt_path).is_file():
        parser.error(f"no checkpoint at {asked.ckpt_path}")
    return asked


def main() -> None:
    """Compare."""
    asked = options()
    stage = EBMStage.load_from_checkpoint(asked.ckpt_path, map_location="cpu", weights_only=True)
    toy = len(stage.eval().vae.image_shape) == 1
    if not toy and stage.vae.image_shape != (1, 8, 8):
        sys.exit(f"{asked.ckpt_path} is neither of 25 Gaussians nor of digits")
    chains = asked.chains or (4000 if toy else 1000)
    judge: Judge = (ToyJudge if toy else DigitsJudge)(stage, chains)
    heads = ["sampler", *(f"{budget}" for budget in asked.budgets)]
    heads += [f"first ≤ {judge.target:.3g} at", "accepted", "R-hat", "ESS per 1,000", "per second"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    curves = {}
    for name, sampler in (TOY if toy else DIGITS).items():
        found = trace(stage, sampler, chains, max(asked.budgets))
        curves[name], cells = judged(found, asked.budgets, judge)
        cells += mixing(trace(stage, sampler, 50, asked.long), judge)
        lines.append(f"| {' | '.join([name, *cells])} |")
        print(lines[-1], flush=True)
    lines += ["", judge.about()]
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "samplers.md").write_text("\n".join(lines) + "\n")
    draw(curves, asked.budgets, judge).savefig(asked.output / "samplers.png", dpi=110)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
