"""Whether the chains of a trained model have forgotten their start, and what a draw costs."""

import csv
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from vaebm.callbacks.logs import log_folder, log_picture
from vaebm.diagnostics import Observable, Summary, Trace, autocorrelation, record, summary
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.noise import Purpose, generator_for, standard_normal
from vaebm.plotting import save
from vaebm.samplers.base import Chain, Sampler


class ChainReport(Callback):
    """Follows long chains of a trained stage 2 and judges them.

    After a test, for the potential, the mean square of the latents and some random projections of
    them: ``test/rhat_<name>`` (split R-hat of the ranks; 1.01 and below is good),
    ``test/ess_<name>`` (effective sample size of all chains together) and
    ``test/autocorrelation_<name>`` (integrated, in steps); over all of them
    ``test/ess_per_gradient`` and ``test/ess_per_second`` of the slowest; and ``test/accept_prob``.
    The figures also go to ``chains.csv`` and the traces to ``chains.png`` in the log folder. Short
    chains of a training without replay have an R-hat far above 1: they are generators, and not
    meant to forget their start.

    Args:
        sampler: Kernel to judge; None takes the one of the training.
        num_chains: Chains, at least 2.
        num_steps: Steps of each.
        burn_in: Steps at the start that do not count; None takes half of them.
        num_projections: Random directions in which latents are followed.
        seed: Seed of the chains.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        num_chains: int = 16,
        num_steps: int = 1000,
        burn_in: int | None = None,
        num_projections: int = 2,
        seed: int = 1,
    ) -> None:
        self.sampler = sampler
        self.num_chains = num_chains
        self.num_steps = num_steps
        self.burn_in = num_steps // 2 if burn_in is None else burn_in
        self.num_projections = num_projections
        self.seed = seed
        if num_chains < 2 or self.burn_in < 0 or num_steps - self.burn_in < 4:
            raise UsageError(
                "ChainReport needs num_chains ≥ 2 and at least 4 steps more than burn_in"
            )
        if num_projections < 0:
            raise UsageError(f"num_projections is {num_projections}, but cannot be negative")

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the chains, judge, log and draw; every rank does the same."""
        if not isinstance(pl_module, EBMStage):
            raise UsageError("ChainReport is for stage 2: samples of the VAE take no steps")
        trace = self.trace(pl_module)
        found = {name: summary(values[self.burn_in :]) for name, values in trace.values.items()}
        for name, judged in found.items():
            pl_module.log(f"test/rhat_{name}", judged.rhat)
            pl_module.log(f"test/ess_{name}", judged.ess)
            pl_module.log(f"test/autocorrelation_{name}", judged.autocorrelation)
        least = min(judged.ess for judged in found.values())
        share = 1 - self.burn_in / self.num_steps  # of the cost, as of the draws
        if trace.gradients:
            cost = share * trace.gradients * self.num_chains
            pl_module.log("test/ess_per_gradient", least / cost)
        pl_module.log("test/ess_per_second", least / (share * trace.seconds))
        if trace.accept_prob is not None:
            pl_module.log("test/accept_prob", trace.accept_prob[self.burn_in :].mean())
        folder = log_folder(trainer)
        if trainer.is_global_zero:
            figure = draw_traces(trace, self.burn_in)
            write(found, folder, figure)
            log_picture(trainer, "chains", figure, trainer.global_step)

    def trace(self, stage: EBMStage) -> Trace:
        """Run the chains from where those of the stage's space start."""
        generator = generator_for(Purpose.CHAINS, self.seed, device=stage.device)
        start = stage.space.start(stage.vae, self.num_chains, generator=generator)
        sampler = stage.sampler if self.sampler is None else self.sampler
        with stage.frozen_potential() as potential:
            observables = self.observables(stage, start)
            observables["potential"] = lambda chain: (
                potential(chain.state) if chain.potential is None else chain.potential
            )
            return record(
                sampler,
                potential,
                start,
                observables,
                num_steps=self.num_steps,
                generator=generator,
            )

    def observables(self, stage: EBMStage, start: Tensor) -> dict[str, Observable]:
        """What is followed of the latents."""
        dim = stage.space.latents(stage.vae, start).shape[1]
        generator = generator_for(Purpose.CHAINS, self.seed, 1)
        directions = standard_normal(self.num_projections, dim, generator=generator).to(start)
        directions = torch.nn.functional.normalize(directions, dim=1)
        found: dict[str, Observable] = {
            "state_square": lambda chain: (
                stage.space.latents(stage.vae, chain.state).square().mean(1)
            )
        }
        for index, direction in enumerate(directions):
            found[f"projection_{index}"] = partial(projection, stage, direction)
        return found


def projection(stage: EBMStage, direction: Tensor, chain: Chain) -> Tensor:
    """The latents along a direction, ``(B,)``."""
    return stage.space.latents(stage.vae, chain.state) @ direction


def draw_traces(trace: Trace, burn_in: int) -> Figure:
    """Traces of some chains, and autocorrelations after burn-in."""
    figure = Figure(figsize=(10, 1.8 * len(trace.values)), layout="constrained")
    axes = figure.subplots(len(trace.values), 2, squeeze=False, width_ratios=(2, 1))
    for (left, right), (name, values) in zip(axes, trace.values.items(), strict=True):
        left.plot(values[:, :8].cpu(), linewidth=0.6)
        left.axvspan(0, burn_in, color="gray", alpha=0.15, linewidth=0)
        left.set(ylabel=name, xlim=(0, len(values)))
        curve = autocorrelation(values[burn_in:])
        right.plot(curve[: max(len(curve) // 4, 2)])
        right.axhline(0, color="black", linewidth=0.5)
        right.set(ylabel="autocorrelation", ylim=(-0.2, 1.02))
    axes[-1][0].set_xlabel("step (grey: burn-in)")
    axes[-1][1].set_xlabel("lag, steps")
    return figure


def write(found: dict[str, Summary], folder: Path, figure: Figure) -> None:
    """Write the table and the picture."""
    save(figure, folder / "chains.png")
    with (folder / "chains.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("observable", *Summary._fields))
        writer.writerows((name, *judged) for name, judged in found.items())
