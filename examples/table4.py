"""The paper's Table 4 in small: VAE, VAEBM and two baselines on x, on CIFAR-10 and two CPU cores.

Trains every variant of stage 2 on one small VAE with several seeds, and measures Fréchet distances
of samples to the test set in the features of a classifier. What is there already is not done
again, and an interrupted training goes on.

    vaebm fit --config cifar10_vae_small.yaml --data.root data
    python examples/table4.py --vae runs/cifar10_vae_small/version_0/checkpoints/last.ckpt
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from vaebm.cli import main

# Steps on x cost a quarter of those through the VAE: more of them in the same time.
ON_X = [
    "--model.sampler=LangevinSampler",
    "--model.sampler.num_steps=20",
    "--model.sampler.step_size=0.1",
    "--model.sampler.noise_scale=0.03",  # 0.01 a step: the VAE's pixel noise is twice that
    "--model.space=DataSpace",
    "--model.gap_scale=null",  # chains from noise start far above the data: the loss would fade
]
REPLAY = ["--model.replay=ReplayBuffer", "--model.replay.capacity=2000"]
REPLAY += ["--model.replay.reuse_prob=0.6", "--model.replay.ramp_steps=100"]
VARIANTS = {
    "VAEBM": [],
    "VAEBM, persistent chains": REPLAY,
    "EBM on x": [*ON_X, "--model.space.init=uniform"],
    "EBM on x, from VAE samples": [*ON_X, "--model.space.init=vae"],
}


def run(*args: str) -> None:
    """Run `vaebm` and stop if it fails."""
    print("$ vaebm", *args, flush=True)
    start = time.perf_counter()
    if main([*args, "--trainer.enable_progress_bar", "false"]):
        sys.exit(f"vaebm {args[0]} failed")
    print(f"[{time.perf_counter() - start:.0f} s]", flush=True)


def measure(variant: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one variant with one seed and evaluate it, unless that was done before."""
    name = "".join(c if c.isalnum() else "_" for c in variant)
    folder = Path(options.output) / f"{name}_{seed}"
    metrics = folder / "test" / "metrics.json"
    if not metrics.exists():
        logger = "--trainer.logger.init_args"
        common = ["--config", options.config, "--data.root", options.data]
        common += ["--seed_everything", str(seed), f"{logger}.save_dir", options.output]
        common += [f"{logger}.name", folder.name]
        checkpoint = folder / "fit" / "checkpoints" / "last.ckpt"
        done = folder / "fit" / "done"
        if not done.exists():  # go on from the checkpoint of an interrupted training
            resume = ["--ckpt_path", str(checkpoint)] if checkpoint.exists() else []
            run("fit", *common, f"{logger}.version", "fit", "--model.vae_checkpoint", options.vae,
                *VARIANTS[variant], *resume)  # fmt: skip
            done.touch()
        run("test", *common, f"{logger}.version", "test", "--ckpt_path", str(checkpoint))
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def table(results: dict[str, list[float]]) -> str:
    """Means and spread over seeds, as Markdown."""
    lines = [
        "| model | Fréchet distance, mean ± std | seeds | ratio to the VAE |",
        "|---|---|---|---|",
    ]
    for title, values in results.items():
        spread = stdev(values) if len(values) > 1 else 0.0
        cells = [title, f"{mean(values):.1f} ± {spread:.1f}", ", ".join(f"{v:.1f}" for v in values)]
        lines.append(f"| {' | '.join(cells)} | {mean(values) / mean(results['VAE']):.2f} |")
    return "\n".join(lines)


def draw(results: dict[str, list[float]]) -> Figure:
    """A bar for each model, a dot for each seed."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axis = figure.subplots()
    for row, values in enumerate(results.values()):
        axis.barh(row, mean(values), color="lightsteelblue")
        axis.plot(values, [row] * len(values), "k.")
    axis.set_yticks(range(len(results)), list(results))
    axis.invert_yaxis()
    axis.set_xlabel("Fréchet distance to the CIFAR-10 test set, classifier features")
    return figure


def table4() -> None:
    """Run everything that is missing; write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data")
    parser.add_argument("--vae", required=True, help="checkpoint of cifar10_vae_small")
    parser.add_argument("--config", default="cifar10_ebm_small.yaml")
    parser.add_argument("--output", default="runs/table4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    results: dict[str, list[float]] = {"VAE": []}
    floor = float("nan")
    for variant in VARIANTS:
        for seed in options.seeds:
            found = measure(variant, seed, options)
            model = found.get("test/frechet_vaebm", found.get("test/frechet_ebm"))
            results.setdefault(variant, []).append(float(model or "nan"))
            floor = found["test/frechet_train_set"]
            if variant == "VAEBM":
                results["VAE"].append(found["test/frechet_vae"])
    text = f"{table(results)}\n\nTraining images in place of samples: {floor:.1f}.\n"
    (Path(options.output) / "table4.md").write_text(text)
    draw(results).savefig(Path(options.output) / "table4.png", dpi=110)
    print(text)


if __name__ == "__main__":
    table4()
