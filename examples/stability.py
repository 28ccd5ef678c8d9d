"""Draw the early signs of divergence of several trainings of stage 2 below each other.

python examples/stability.py --output docs/images/stability.png "no penalty=runs/a/version_0" ...
"""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure

# What is drawn: label, scale and range, beyond which a training has run away.
SIGNS = {
    "accept_prob": ("Metropolis acceptance", "linear", (0.2, 1)),
    "grad_norm": ("drift ‖∂U/∂ε‖", "log", (10, 1e3)),
    "state_square": ("mean square of latents", "linear", (0, 5)),
    "energy_magnitude": ("mean |E|", "log", (1, 1e5)),
    "energy_gap": ("energy gap", "linear", (-400, 50)),
}


def read(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every sign in a run's metrics.csv."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in SIGNS}
    with (run / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, values in found.items():
                if row.get(f"train/{name}"):
                    values.append((int(row["step"]), float(row[f"train/{name}"])))
    return found


def smooth(values: list[float], window: int) -> list[float]:
    """Means over a window that ends at each value."""
    parts = (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]


def draw(runs: dict[str, Path], window: int) -> Figure:
    """One row for each sign, one line for each run."""
    figure = Figure(figsize=(9, 1.9 * len(SIGNS)), layout="constrained")
    axes = figure.subplots(len(SIGNS), 1, sharex=True)
    for title, run in runs.items():
        signs = read(run)
        for axis, name in zip(axes, SIGNS, strict=True):
            if not signs[name]:  # an energy of one step, say, has no acceptance
                continue
            steps, values = zip(*signs[name], strict=True)
            axis.plot(steps, smooth(list(values), window), label=title, linewidth=1)
    for axis, (label, scale, limits) in zip(axes, SIGNS.values(), strict=True):
        axis.set(ylabel=label, yscale=scale, ylim=limits)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("training step")
    return figure


def main() -> None:
    """Read the runs and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="TITLE=FOLDER of a run's metrics.csv")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--window", type=int, default=5, help="logged values that are averaged")
    options = parser.parse_args()
    runs = {title: Path(run) for title, run in (text.split("=", 1) for text in options.runs)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, options.window).savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
