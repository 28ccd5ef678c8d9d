"""Model cards: what a checkpoint is, for people, in a Markdown file beside it."""

import functools
import json
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import yaml

from vaebm.checkpoints.atomic import whole_file

MARK = "<!-- A model card that vaebm writes anew with each checkpoint of this name. -->"


def card_of(checkpoint: Path) -> Path:
    """Where the card of a checkpoint is: ``last.md`` beside ``last.ckpt``."""
    return checkpoint.with_suffix(".md")


def write_card(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a card, but never over a file that is none.

    Args:
        path: The Markdown file.
        checkpoint: Content of the checkpoint.
    """
    if is_card(path) or not path.exists():
        with whole_file(path) as file:
            file.write("\n".join(lines_of(checkpoint, path.stem)).encode())


def remove_card(path: Path) -> None:
    """Remove a card, if it is one."""
    if is_card(path):
        path.unlink()


def is_card(path: Path) -> bool:
    """Whether a file is a model card of this package."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()


def lines_of(checkpoint: Mapping[str, Any], name: str) -> Iterator[str]:
    """The lines of a card.

    Args:
        checkpoint: Content of a checkpoint.
        name: Its name without ``.ckpt``.
    """
    model, data = (
        settings(checkpoint.get(key, {}))
        for key in ("hyper_parameters", "datamodule_hyper_parameters")
    )
    yield from (MARK, f"# {name}", "", "| | |", "|---|---|")
    yield f"| model | `{model.get('class_path', 'unknown')}` |"
    yield f"| weights | {', '.join(sizes(checkpoint['state_dict']))} |"
    yield f"| step, epoch | {checkpoint.get('global_step', 0):,}, {checkpoint.get('epoch', 0):,} |"
    yield f"| data | {'`' + data['class_path'] + '`' if data else 'unknown'} |"
    yield f"| vaebm | {package()} |"
    yield f"| torch, Lightning | {version('torch')}, {version('lightning')} |"
    yield from ("", f"`vaebm sample --ckpt_path {name}.ckpt` draws from it.", "")
    metrics = checkpoint.get("metrics")
    if metrics:
        yield from ("## Metrics", "", "| | |", "|---|---|")
        yield from (f"| {key} | {value:.6g} |" for key, value in sorted(metrics.items()))
        yield ""
    config = {key: value for key, value in (("model", model), ("data", data)) if value}
    yield from ("## Config", "", "```yaml", yaml.safe_dump(config, sort_keys=False) + "```", "")


def settings(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """``{class_path, init_args}`` of hyper-parameters as the command line stores them."""
    if "_class_path" not in hyper_parameters:
        return {}
    init_args = {k: v for k, v in hyper_parameters.items() if not k.startswith("_")}
    return {"class_path": hyper_parameters["_class_path"], "init_args": init_args}


def sizes(state_dict: Mapping[str, Any]) -> Iterator[str]:
    """How many numbers each network has."""
    networks = dict.fromkeys(name.partition(".")[0] for name in state_dict)
    for network in networks:
        count = sum(v.numel() for k, v in state_dict.items() if k.partition(".")[0] == network)
        yield f"{network} {count:,}"


@functools.cache
def package() -> str:
    """Version of this package, and its commit where that is known."""
    try:
        found = distribution("vaebm")
    except PackageNotFoundError:  # imported from a checkout that was never installed
        return "0.0.0"
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id") or commit_of(Path(__file__).parents[2])
    return f"{found.version}, commit {commit}" if commit else found.version


def commit_of(repository: Path) -> str | None:
    """The commit that a working copy of git is at, marked if files differ from it."""
    if not (repository / ".git").exists():
        return None
    command = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=40"]
    command += ["--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
