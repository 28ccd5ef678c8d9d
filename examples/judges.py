"""How far samples are from what a trained model says, for `compare_samplers.py`."""

from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from vaebm.callbacks.class_features import Distances, classifier_of, labelled
from vaebm.datamodules import DigitsDataModule, Gaussians25DataModule
from vaebm.ebm_stage import EBMStage
from vaebm.metrics.quadrature import prior_mixture, vaebm_on_grid
from vaebm.noise import generator_for


class Judge(Protocol):
    """Tells how far samples are from the model.

    Attributes:
        name: What the error is.
        best: What a perfect sampler of a perfect model would give.
        floor: Error of that.
        target: The error that a sampler should reach.
    """

    name: str
    best: str
    floor: float
    target: float

    def errors(self, states: Tensor) -> tuple[float, str]:
        """The error of states ``(B, D)``, and what to print of them."""

    def axis(self, states: Tensor) -> Tensor:
        """One number of each state ``(K, B, D)``, for the effective sample size, ``(K, B)``."""

    def about(self) -> str:
        """A line on the reference."""


class ToyJudge:
    """Total variation to the density of 25 Gaussians' model, and the width of its modes.

    Args:
        stage: The model.
        chains: Samples that will be judged.
    """

    name, best = "total variation over mode cells", "exact draws"

    def __init__(self, stage: EBMStage, chains: int) -> None:
        self.stage, self.data = stage, Gaussians25DataModule()
        grid = vaebm_on_grid(prior_mixture(stage.vae), stage.energy)
        weight = (grid.log_prob_vaebm.exp() * grid.cell_area).flatten()
        cell, squares = self._nearest(torch.cartesian_prod(grid.axis_x, grid.axis_y))
        self.cells = torch.bincount(cell, weight, 26)
        inside = cell < 25
        mean = (weight * squares)[inside].sum() / weight[inside].sum()
        self.width = sqrt(mean / 2) / self.data.std
        torch.manual_seed(0)
        draws = torch.distributions.Multinomial(chains, self.cells).sample((200,)) / chains
        self.floor = float((draws - self.cells).abs().sum(1).mean() / 2)
        self.target = self.floor + 0.02

    def _nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Cell of each point, 25 for the rest, and its squared distance to the centre."""
        squares, cell = (points[:, None] - self.data.centers.to(points)).square().sum(2).min(1)
        return torch.where(squares <= (4 * self.data.std) ** 2, cell, 25), squares

    def errors(self, states: Tensor) -> tuple[float, str]:
        """Total variation over cells, and relative error of the width."""
        cell, squares = self._nearest(self.stage.space.image(self.stage.vae, states).double())
        share = torch.bincount(cell, minlength=26).double() / len(states)
        distance = float((share - self.cells).abs().sum() / 2)
        width = sqrt(squares[cell < 25].mean() / 2) / self.data.std / self.width - 1
        return distance, f"{distance:.3f} / {width:+.1%}"

    def axis(self, states: Tensor) -> Tensor:
        """The first coordinate."""
        points = self.stage.space.image(self.stage.vae, states.flatten(0, 1))
        return points[:, 0].unflatten(0, states.shape[:2])

    def about(self) -> str:
        """Noise floor and width."""
        return f"Exact draws: {self.floor:.3f}. Width of the exact modes: {self.width:.3f}."


class DigitsJudge:
    """Fréchet distance to the training digits, in a classifier's features.

    What a model does wrong counts here too: the density of a model of images is not known.

    Args:
        stage: The model.
        chains: Samples that will be judged.
    """

    name, best = "Fréchet distance to the training images", "test images"

    def __init__(self, stage: EBMStage, chains: int) -> None:
        self.stage, data = stage, DigitsDataModule()
        data.setup("test")
        self.classifier = classifier_of(data, stage.device, epochs=25, cache=None)
        train, test = (
            labelled(part, stage.device)[0] for part in (data.parts.train, data.parts.test)
        )
        self.distances = Distances(self.classifier, train)
        self.direction = torch.pca_lowrank(self.classifier.features(train), 1)[2][:, 0]
        self.floor = self.target = float(self.distances.to(test))
        start = stage.space.start(stage.vae, chains, generator=generator_for(1))
        self.vae = self.errors(start)[0]

    def errors(self, states: Tensor) -> tuple[float, str]:
        """The distance."""
        distance = float(self.distances.to(self.stage.space.image(self.stage.vae, states)))
        return distance, f"{distance:.1f}"

    def axis(self, states: Tensor) -> Tensor:
        """The first principal component of the features."""
        images = self.stage.space.image(self.stage.vae, states.flatten(0, 1))
        return (self.classifier.features(images) @ self.direction).unflatten(0, states.shape[:2])

    def about(self) -> str:
        """What to compare with."""
        return f"Test images: {self.floor:.1f}. Samples of the VAE: {self.vae:.1f}."
