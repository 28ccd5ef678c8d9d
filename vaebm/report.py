"""Our figures beside the paper's: what `vaebm test` has measured, as Markdown and a picture."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml
from matplotlib.figure import Figure

from vaebm.errors import DataError, UsageError
from vaebm.plotting import save

PAPER = Path(__file__).with_name("paper.yaml")


class Run(NamedTuple):
    """What one `vaebm test` has left.

    Attributes:
        model: What the model is, such as ``VAEBM, persistent chains``.
        data: Class name of the datamodule.
        settings: What tells its settings from those of others.
        metrics: Figures as logged.
    """

    model: str
    data: str
    settings: str
    metrics: dict[str, float]


class Cell(NamedTuple):
    """A figure of several runs."""

    mean: float
    spread: float
    runs: int

    def __str__(self) -> str:
        spread = f" ± {self.spread:.2g}" if self.runs > 1 else ""
        return f"{self.mean:.4g}{spread}"


class Table(NamedTuple):
    """One table of the paper with our rows.

    Attributes:
        title: Its title.
        columns: Names of the columns.
        paper: The paper's rows.
        ours: Our rows, of the same columns.
    """

    title: str
    columns: list[str]
    paper: dict[str, list[float | None]]
    ours: dict[str, list[Cell | None]]


def read_run(folder: Path) -> Run:
    """Read the log folder of a `vaebm test`.

    Args:
        folder: The folder, or a ``metrics.json`` in it.

    Raises:
        UsageError: If there is no such folder, or nothing was tested there.
        DataError: If its files are damaged.
    """
    folder = read_folder(folder)
    for name in ("metrics.json", "run.json"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} has no {name}: give the log folder of a `vaebm test`")
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        about = json.loads((folder / "run.json").read_text())
        numbers = {str(name): float(value) for name, value in metrics.items()}
        model, data, settings = (str(about[name]) for name in ("model", "data", "settings"))
        return Run(model, data, settings, numbers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{folder}: metrics.json or run.json is damaged ({error})") from error


def read_folder(path: Path) -> Path:
    """The folder that a path to it or to its ``metrics.json`` means."""
    return path.parent if path.name == "metrics.json" else path


def figure_of(run: Run, metric: str) -> tuple[int, float] | None:
    """A figure of a run and its number of samples; of several numbers that with the most.

    Args:
        run: The run.
        metric: Name without ``test/``; ``{n}`` stands for a number of samples.
    """
    pattern = re.compile("test/" + re.escape(metric).replace(re.escape("{n}"), r"(\d+)"))
    found = [(pattern.fullmatch(name), value) for name, value in run.metrics.items()]
    matches = [(int(m[1]) if m.groups() else 0, value) for m, value in found if m]
    return max(matches) if matches else None


def tables(runs: Sequence[Run], paper: Mapping[str, Any] | None = None) -> list[Table]:
    """The paper's tables, each with our rows of the same data.

    Args:
        runs: Our runs; those of the same model, settings and data are averaged.
        paper: The paper's figures; None reads those that come with the package.
    """
    paper = yaml.safe_load(PAPER.read_text()) if paper is None else paper
    found = []
    for table in paper["tables"]:
        grouped = by_model([run for run in runs if run.data == table["data"]])
        metrics = list(table["columns"].values())
        rows = {
            model: [cell(same, metric) for metric in metrics] for model, same in grouped.items()
        }
        ours = {model: row for model, row in rows.items() if any(row)}
        found.append(Table(table["title"], list(table["columns"]), table["rows"], ours))
    return found


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of one model each; where a model has several settings, these are part of its name."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        grouped.setdefault((run.model, run.settings), []).append(run)
    models = [model for model, _ in grouped]
    return {
        f"{model} ({settings})" if models.count(model) > 1 else model: same
        for (model, settings), same in grouped.items()
    }


def cell(runs: Sequence[Run], metric: str) -> Cell | None:
    """The mean of a figure over the runs that have it of the most samples."""
    found = [figure for run in runs if (figure := figure_of(run, metric)) is not None]
    if not found:
        return None
    values = [value for count, value in found if count == max(found)[0]]
    return Cell(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def markdown(found: Sequence[Table], source: str) -> str:
    """The tables as text; what was not measured stays empty."""
    lines = [f"Figures of the paper are from {source}.", ""]
    for table in found:
        lines += [f"## {table.title}", "", "| model | " + " | ".join(table.columns) + " | runs |"]
        lines.append("|---" * (len(table.columns) + 2) + "|")
        for model, row in table.ours.items():
            shown = ["" if value is None else str(value) for value in row]
            runs = max(value.runs for value in row if value is not None)
            lines.append(f"| **{model}, measured here** | {' | '.join(shown)} | {runs} |")
        for model, values in table.paper.items():
            shown = ["" if value is None else f"{value:g}" for value in values]
            lines.append(f"| {model} | {' | '.join(shown)} | |")
        lines.append("")
    return "\n".join(lines)


def picture(found: Sequence[Table]) -> Figure:
    """One row a table, one panel a column: the paper's figures as bars, ours in another colour."""
    width = max(len(table.columns) for table in found)
    rows = [len(table.paper) + len(table.ours) for table in found]
    figure = Figure(figsize=(5 * width, 0.25 * sum(rows) + 0.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(found), width, squeeze=False, height_ratios=rows)
    for line, table in zip(axes, found, strict=True):
        for axis in line[len(table.columns) :]:
            axis.axis("off")
        for column, (axis, name) in enumerate(zip(line, table.columns, strict=False)):
            ours = {f"{model} (here)": row[column] for model, row in table.ours.items()}
            theirs = {model: values[column] for model, values in table.paper.items()}
            labels = [*theirs, *ours]
            heights = [value or 0 for value in theirs.values()]
            heights += [value.mean if value else 0 for value in ours.values()]
            spread = [0.0] * len(theirs) + [value.spread if value else 0 for value in ours.values()]
            colours = ["tab:gray"] * len(theirs) + ["tab:blue"] * len(ours)
            axis.barh(labels, heights, xerr=spread, color=colours)
            axis.invert_yaxis()
            axis.set_xlabel(name)
            axis.tick_params(labelsize="small")
            if not column:
                axis.set_title(table.title, loc="left", fontsize="medium")
    return figure


def report(folders: Sequence[Path], output: Path) -> list[Path]:
    """Write ``report.md`` and ``report.png`` of some runs.

    Args:
        folders: Log folders of `vaebm test`.
        output: Folder to write to.

    Returns:
        The two files.

    Raises:
        UsageError: If a folder holds no test, or no run has a figure of any of the tables.
        DataError: If files are damaged.
    """
    paper = yaml.safe_load(PAPER.read_text())
    different = {read_folder(folder).resolve(): folder for folder in folders}
    runs = [read_run(folder) for folder in different.values()]
    found = [table for table in tables(runs, paper) if table.ours]
    if not found:
        data = ", ".join(sorted({run.data for run in runs}))
        raise UsageError(f"these runs ({data}) have no figure of the paper's tables")
    output.mkdir(parents=True, exist_ok=True)
    files = [output / "report.md", output / "report.png"]
    files[0].write_text(markdown(found, paper["source"]))
    save(picture(found), files[1])
    return files
