"""The main job on two data sets: both stages, sampling, evaluation, pictures, one table.

Everything goes through the command line's `main`, as a user would call it. No download: 25
Gaussians are made on the fly, the handwritten digits ship with scikit-learn.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from vaebm.cli import main

Metrics = dict[str, float]


class Runs:
    """Runs `vaebm` commands that log below one folder.

    Args:
        folder: Folder of all runs.
        seed: Seed of every training.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def _run(self, command: str, config: str, name: str, *options: str) -> None:
        logger = "--trainer.logger.init_args"
        args = [command, "--config", config, "--seed_everything", str(self.seed)]
        args += [f"{logger}.save_dir", str(self.folder), f"{logger}.name", name]
        args += [f"{logger}.version", "run", "--trainer.enable_progress_bar", "false", *options]
        print(f"\n$ vaebm {' '.join(args)}", flush=True)
        start = time.perf_counter()
        if main(args):
            sys.exit(f"vaebm {command} of {name} failed")
        print(f"[{time.perf_counter() - start:.0f} s]", flush=True)

    def checkpoint(self, name: str) -> Path:
        """The last checkpoint of a training."""
        return self.folder / name / "run" / "checkpoints" / "last.ckpt"

    def fit(self, name: str, *options: str) -> None:
        """Train with the shipped config of that name, afresh."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        self._run("fit", f"{name}.yaml", name, *options)

    def test(self, name: str) -> Metrics:
        """Evaluate the last checkpoint of a training."""
        self._run("test", f"{name}.yaml", f"{name}_test", "--ckpt_path", str(self.checkpoint(name)))
        metrics: Metrics = json.loads((self.folder / f"{name}_test/run/metrics.json").read_text())
        shutil.copy(self.folder / f"{name}_test/run/samples/test.png", self.folder / f"{name}.png")
        return metrics

    def two_stages(self, data: str, *variants: str) -> dict[str, Metrics]:
        """Train the VAE once, then every variant of stage 2 on it, and evaluate."""
        self.fit(f"{data}_vae")
        results = {}
        for variant in variants:
            name = f"{data}_{variant}"
            self.fit(name, "--model.vae_checkpoint", str(self.checkpoint(f"{data}_vae")))
            results[name.removesuffix("_ebm")] = self.test(name)
        return results


ROWS = {
    "gaussians25": {
        "negative log-likelihood, nats": ("nll_true", "nll_vae", "nll_vaebm"),
        "modes covered, of 25": (None, "modes_vae", "modes"),
        "share of high-quality samples": (None, "high_quality_vae", "high_quality"),
        "KL of modes to uniform, nats": (None, "mode_kl_vae", "mode_kl"),
    },
    "digits": {
        "Fréchet distance to train": ("frechet_test_set", "frechet_vae", "frechet_vaebm"),
    },
}


def table(results: dict[str, Metrics]) -> str:
    """All figures side by side; `data` is the truth, of Fréchet distances the test set's own."""
    columns = ("data", "VAE", "VAEBM", "persistent")
    lines = []
    for title, rows in ROWS.items():
        plain, persistent = (
            {key.removeprefix("test/"): value for key, value in results[name].items()}
            for name in (title, f"{title}_ebm_persistent")
        )
        lines.append(f"{title:32}" + "".join(f"{column:>12}" for column in columns))
        for label, (data, vae, vaebm) in rows.items():
            values = [plain.get(str(data)), plain[vae], plain[vaebm], persistent[vaebm]]
            cells = ("" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"  {label:30}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def demo() -> None:
    """Run everything and write metrics.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    runs = Runs(options.output, options.seed)
    results = runs.two_stages("gaussians25", "ebm", "ebm_persistent")
    results |= runs.two_stages("digits", "ebm", "ebm_persistent")
    flat = {
        f"{run}.{key}": value for run, values in results.items() for key, value in values.items()
    }
    (options.output / "metrics.json").write_text(json.dumps(flat, indent=2) + "\n")
    print(table(results))
    print(f"metrics and pictures: {options.output}  [{time.perf_counter() - start:.0f} s in all]")


if __name__ == "__main__":
    demo()
