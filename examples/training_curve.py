"""Draw what a training logged to its metrics.csv.

python examples/training_curve.py runs/digits_vae/version_0 val/bits_per_dim --output bits.png
"""

import csv
from argparse import ArgumentParser
from pathlib import Path

from matplotlib.figure import Figure


def read(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one logged quantity."""
    path = run / "metrics.csv"
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: give the folder of a run with a CSVLogger")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric)]
    if not rows:
        raise SystemExit(f"{path} has no {metric}")
    return [int(row["step"]) for row in rows], [float(row[metric]) for row in rows]


def main() -> None:
    """Draw every metric in a panel of its own."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("metrics", nargs="+", help="names as logged")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    figure = Figure(figsize=(5 * len(options.metrics), 3.5), layout="constrained")
    axes = figure.subplots(1, len(options.metrics), squeeze=False)[0]
    for axis, metric in zip(axes, options.metrics, strict=True):
        axis.plot(*read(options.run, metric), marker="." if metric.startswith("val") else None)
        axis.set(xlabel="step", ylabel=metric)
        axis.grid(alpha=0.3)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
