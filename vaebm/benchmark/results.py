"""Figures of a benchmark as a table, a picture and a JSON file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaebm.plotting import save

Figures = Mapping[str, Any]
RATIOS = ("step", "iteration")
TITLES = {
    "baseline": "baseline",
    "fp32": "ours, float32",
    "bf16": "ours, bf16",
    "compiled": "ours, compiled",
}


def table(figures: Figures) -> Iterator[str]:
    """The lines that are printed."""
    yield f"{figures['device']}, torch {figures['torch']}, batch {figures['batch_size']}"
    sizes = ", ".join(f"{name} {n / 1e6:,.2f} M" for name, n in figures["parameters"].items())
    yield f"parameters: {sizes}"
    sizes = ", ".join(f"{name} {n / 1e9:,.3g}" for name, n in figures["flops"].items())
    yield f"GFLOP: {sizes}"
    for precision, rates in figures["throughput"].items():
        shown = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in rates.items())
        yield f"GFLOP/s in {precision}: {shown}"
    yield ""
    heads = ("s/step", "ratio", "peak", "s/iteration", "ratio", "GB")
    yield line("", heads)
    for name, step in figures["seconds"]["step"].items():
        yield row(figures, name, step)
    yield ""
    for name, rate in figures["samples_per_second"].items():
        steps = figures["num_steps"]
        yield f"samples per second, {TITLES[name]}, {steps} steps: {rate:.3g}"
    for name, growth in figures["scaling"].items():
        worst = max(map(abs, growth["residuals"]))
        yield (
            f"seconds by {name}: {growth['slope']:.3g} each + {growth['intercept']:.3g}, "
            f"off the line by up to {worst:.0%} at {growth['sizes']}"
        )


def row(figures: Figures, name: str, step: Mapping[str, float]) -> str:
    """One contestant's line of the table."""
    iteration = figures["seconds"]["iteration"][name]
    ratio, share = figures["ratio"], figures["peak_share"].get(f"step_{name}")
    ratios = ["1" if name == "baseline" else f"{ratio[f'{of}_{name}']:.2f}" for of in RATIOS]
    peak = "" if share is None else f"{share:.0%}"
    memory = f"{figures['memory'][name] / 1e9:.3g}" if name in figures["memory"] else ""
    cells = (spread(step), ratios[0], peak, spread(iteration), ratios[1], memory)
    return line(TITLES[name], cells)


def line(title: str, cells: Iterable[str]) -> str:
    """One line of the table."""
    columns = zip(cells, (26, 7, 7, 26, 7, 8), strict=True)
    return f"{title:14}" + "".join(f"{cell:>{width}}" for cell, width in columns).rstrip()


def spread(timing: Mapping[str, float]) -> str:
    """A median with the range around it."""
    return f"{timing['median']:.3g} ({timing['low']:.3g}-{timing['high']:.3g})"


def picture(figures: Figures) -> Figure:
    """Bars of all contestants, and how the cost grows."""
    panels = list(figures["scaling"].items())
    figure = Figure(figsize=(4 * (2 + len(panels)), 3.6), layout="constrained")
    axes = figure.subplots(1, 2 + len(panels), squeeze=False)[0]
    for axis, work in zip(axes, RATIOS, strict=False):
        bars(axis, figures["seconds"][work])
        axis.set_title(f"seconds per {'Langevin step' if work == 'step' else 'iteration'}")
    for axis, (name, growth) in zip(axes[2:], panels, strict=True):
        line = [growth["slope"] * size + growth["intercept"] for size in growth["sizes"]]
        axis.plot(growth["sizes"], growth["seconds"], "o")
        axis.plot(growth["sizes"], line, "-", linewidth=1)
        axis.set(title=f"seconds of a chain by {name}", xlabel=name, ylim=(0, None), xlim=(0, None))
    return figure


def bars(axis: Axes, timings: Mapping[str, Mapping[str, float]]) -> None:
    """One bar a contestant, with the range of its times."""
    names = [TITLES[name].replace(", ", ",\n") for name in timings]
    medians = [timing["median"] for timing in timings.values()]
    below = [timing["median"] - timing["low"] for timing in timings.values()]
    above = [timing["high"] - timing["median"] for timing in timings.values()]
    axis.bar(names, medians, yerr=[below, above], capsize=4)
    axis.tick_params(axis="x", labelsize=8)


def write(figures: Figures, output: Path) -> Path:
    """Write the figures, and the picture beside them.

    Returns:
        Path of the picture.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2) + "\n")
    save(picture(figures), output.with_suffix(".png"))
    return output.with_suffix(".png")
