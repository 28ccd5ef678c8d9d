"""Which images a model takes for data: out-of-distribution detection after testing."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from scipy.stats import ks_2samp
from torch import Tensor

from vaebm.callbacks.logs import log_folder, log_picture
from vaebm.callbacks.outside import chosen_images, fit_colours, synthetic_images
from vaebm.datamodules import ImageDataModule
from vaebm.errors import UsageError
from vaebm.evaluation import batches_of_process
from vaebm.metrics import auroc
from vaebm.models.layers import cached_weights
from vaebm.noise import Purpose, RowGenerators, generator_for
from vaebm.plotting import save
from vaebm.sampling import gather
from vaebm.stage import Stage

Kind = Literal["interpolations", "noise", "constants"]
Scores = dict[str, Tensor]
LABELS = {"log_h": "log h(x) + log Z, nats", "elbo": "ELBO, nats", "energy": "−E(x), nats"}


class OODDetection(Callback):
    """Tells test images from images of other sets by what the model says of them (Table 6).

    After a test, for each set: ``test/auroc_<set>``, the probability that a test image has a higher
    log h(x) = log p_θ(x) − E(x) − log Z than one of the set, with its standard error
    ``test/auroc_<set>_error``, as if the two were independent; the bound ELBO(x) stands for
    log p_θ, and Z plays no part. The same of its two terms, ``test/auroc_elbo_<set>`` and
    ``test/auroc_energy_<set>``, of −E(x). In stage 1 ``test/auroc_<set>`` is that of the ELBO, of
    energies on x that of −E. `vaebm report` knows sets of the names svhn, cifar100 and celeba.

    Whether the model knows its training images by heart: ``test/ks_train_test`` is the largest
    difference of the distributions of log h of training and test images (of Kolmogorov and
    Smirnov), ``test/ks_train_test_pvalue`` the probability of as large a one by chance (Figure 6).

    All of it goes to ``ood.csv`` and ``ood.png`` in the log folder, the picture to loggers too.

    Args:
        datasets: Datamodules of other sets by name; their test images are used.
        synthetic: Sets made from the test images: ``interpolations``, means of two; ``noise``,
            uniform; ``constants``, of one colour.
        num_images: Images of each set, or all if there are fewer.
        batch_size: Images at once.
        seed: Seed of the choice of images and of the posterior noise.
    """

    def __init__(
        self,
        datasets: dict[str, ImageDataModule] | None = None,
        synthetic: Sequence[Kind] = get_args(Kind),
        num_images: int = 2000,
        batch_size: int = 100,
        seed: int = 1,
    ) -> None:
        if not set(synthetic) <= set(get_args(Kind)):
            raise UsageError(f"synthetic sets are {', '.join(get_args(Kind))}, not {synthetic}")
        if num_images < 2 or batch_size < 1:
            raise UsageError("OODDetection needs num_images ≥ 2 and batch_size ≥ 1")
        self.datasets = datasets or {}
        self.synthetic = synthetic
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        twice = set(self.datasets) & {*synthetic, "train", "test"}
        if twice:
            raise UsageError(f"{', '.join(sorted(twice))} cannot be the name of another data set")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read the sets, so that errors come before any work."""
        if stage != "test":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not isinstance(pl_module, Stage):
            raise UsageError("OODDetection needs a datamodule and a stage of vaebm")
        if len(pl_module.vae.image_shape) != 3:
            raise UsageError("OODDetection is for images, not for points")
        if trainer.local_rank == 0:
            for other in self.datasets.values():
                other.prepare_data()
        trainer.strategy.barrier()
        least = max(2, trainer.world_size)
        for name, part in self.real_parts(trainer).items():
            if min(self.num_images, len(part)) < least:
                raise UsageError(f"fewer than {least} images of {name} are too few to compare")
            fit_colours(chosen_images(part, 1, self.seed), pl_module.vae.image_shape, name)

    def real_parts(self, trainer: Trainer) -> dict[str, Any]:
        """The training and test part, and the test parts of the other sets, by name."""
        parts = trainer.datamodule.parts  # type: ignore[attr-defined]
        others = {name: other.parts.test for name, other in self.datasets.items()}
        return {"train": parts.train, "test": parts.test, **others}

    def images(self, trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
        """Names of all sets and their images, one set after the other to save memory."""
        parts = self.real_parts(trainer)
        for name, part in parts.items():
            yield name, chosen_images(part, self.num_images, self.seed)
        test = chosen_images(parts["test"], self.num_images, self.seed)
        for number, kind in enumerate(self.synthetic):
            generator = generator_for(Purpose.OUTSIDE, self.seed, number)
            yield kind, synthetic_images(kind, test, generator)

    def scores(self, trainer: Trainer, stage: Stage, images: Tensor) -> Scores:
        """What the model says of images, ``(N,)`` each on the CPU, the model's own figure first."""
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        with cached_weights(stage):
            for numbers in batches_of_process(trainer, len(images), self.batch_size):
                index = torch.tensor(numbers)
                # Each image has noise of its own, whatever the batch size and processes.
                generator = RowGenerators(self.seed, numbers, device=stage.device)
                with trainer.precision_plugin.forward_context():
                    terms = stage.log_likelihood(images[index].to(stage.device), generator)
                for kind, value in scores_of(terms).items():
                    parts.setdefault(kind, []).append((index, value.double().cpu()))
        return {kind: gather(part) for kind, part in parts.items()}

    @torch.no_grad()
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all sets, compare, log and draw; processes share the images."""
        assert isinstance(pl_module, Stage)
        shape = pl_module.vae.image_shape
        found = {
            name: self.scores(trainer, pl_module, fit_colours(images, shape, name))
            for name, images in self.images(trainer)
        }
        inside = found["test"]
        main = next(iter(inside))
        rows: list[Row] = []
        figures: dict[str, float] = {}
        for name in [*self.datasets, *self.synthetic]:
            for kind in inside:
                area, error = (float(v) for v in auroc(inside[kind], found[name][kind]))
                rows.append(Row(name, kind, area, error))
                labels = [f"auroc_{name}"] if kind == main else []
                labels += [f"auroc_{kind}_{name}"] if kind != "log_h" else []
                for label in labels:
                    figures |= {label: area, f"{label}_error": error}
        fit = ks_2samp(found["train"][main].numpy(), inside[main].numpy())
        figures["ks_train_test"] = float(fit.statistic)
        figures["ks_train_test_pvalue"] = float(fit.pvalue)
        logged = {f"test/{name}": value for name, value in figures.items()}
        pl_module.log_dict(logged, sync_dist=True)  # equal on all processes
        folder = log_folder(trainer)
        if trainer.is_global_zero:
            figure = draw_histograms({name: scores[main] for name, scores in found.items()}, main)
            write(rows, folder, figure)
            log_picture(trainer, "ood", figure, trainer.global_step)


class Row(NamedTuple):
    """How well one score tells one set from the test images."""

    dataset: str
    score: str
    auroc: float
    error: float


def scores_of(terms: dict[str, Tensor]) -> Scores:
    """Scores that are higher for likelier images, ``(B,)`` each, the model's own figure first."""
    scores = {"log_h": terms["elbo_minus_energy"]} if "elbo_minus_energy" in terms else {}
    scores |= {"energy": -terms["energy"]} if "energy" in terms else {}
    return {**scores, "elbo": terms["elbo"]}


def draw_histograms(scores: Mapping[str, Tensor], kind: str) -> Figure:
    """Training and test images against each other, and test images against all other sets.

    Values beyond the limits of a panel are in its outer bars: a few far ones would leave one bar
    for all others.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    both = {name: scores[name] for name in ("train", "test")}
    others = {name: values for name, values in scores.items() if name != "train"}
    near = quantiles(both, 0.001)
    low, high = quantiles(others, 0.02)
    reach = 2 * (near[1] - near[0])
    wide = (max(low, near[0] - reach), min(high, near[1] + reach))
    for axis, shown, limits in ((left, both, near), (right, others, wide)):
        for name, values in shown.items():
            axis.hist(
                values.clamp(*limits).numpy(),
                bins=min(60, 2 * isqrt(len(values))),
                range=limits,
                density=True,
                histtype="step",
                label=f"{name}, {len(values):,}",
            )
        axis.set(xlabel=LABELS[kind], ylabel="density")
        axis.legend(fontsize="small")
    return figure


def quantiles(scores: Mapping[str, Tensor], tail: float) -> tuple[float, float]:
    """Limits that leave out at most a tail of each set on each side."""
    lows = [float(values.quantile(tail)) for values in scores.values()]
    highs = [float(values.quantile(1 - tail)) for values in scores.values()]
    return min(lows), max(highs)


def write(rows: Sequence[Row], folder: Path, figure: Figure) -> None:
    """Write the table and the picture."""
    save(figure, folder / "ood.png")
    with (folder / "ood.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
