"""Toys: density, draws and parts."""

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch

from vaebm.datamodules import (
    CheckerboardDataModule,
    GaussianRingDataModule,
    Gaussians25DataModule,
    RingsDataModule,
)
from vaebm.datamodules.toys import GaussianModesDataModule, ToyDataModule
from vaebm.errors import UsageError
from vaebm.noise import generator_for

SMALL = {"num_train": 300, "num_test": 200}
TOYS: dict[str, tuple[type[ToyDataModule], dict[str, Any]]] = {
    "25 Gaussians": (Gaussians25DataModule, {}),
    "8 Gaussians": (GaussianRingDataModule, {}),
    "3 Gaussians": (GaussianRingDataModule, {"num_modes": 3, "radius": 1.0, "std": 0.1}),
    "rings": (RingsDataModule, {}),
    "wide rings": (RingsDataModule, {"num_rings": 1, "distance": 0.5, "std": 0.15}),
    "checkerboard": (CheckerboardDataModule, {}),
    "odd checkerboard": (CheckerboardDataModule, {"num_squares": 3}),
}


def toy(name: str, **options: Any) -> Any:
    cls, settings = TOYS[name]
    return cls(**SMALL | settings | options)


@pytest.fixture(params=TOYS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(name: str) -> ToyDataModule:
    cls: ToyDataModule = toy(name)
    return cls


def grid(step: float) -> torch.Tensor:
    """The middles of cells that fill a square around all toys."""
    ticks = torch.arange(-3, 3, step, dtype=torch.float64) + step / 2
    return torch.cartesian_prod(ticks, ticks)


def test_density_integrates_to_one(data: ToyDataModule) -> None:
    step = 0.02
    mass = data.log_prob(grid(step)).exp().sum() * step**2
    assert float(mass) == pytest.approx(1, abs=1e-3)  # 1 / ‖x‖ near 0 is steep


def test_draws_have_the_density(data: ToyDataModule) -> None:
    """χ² of the counts in the cells of a coarse grid, whose probability is integrated."""
    fine, coarse, number = 0.02, 0.5, 40_000
    points, draws = grid(fine), data.draw(number, generator_for(1)).double()
    cells = [
        ((x + 3) / coarse).floor().long().clamp(0, 11) @ torch.tensor([12, 1])
        for x in (points, draws)
    ]
    mass = data.log_prob(points).exp() * fine**2
    expected = number * torch.zeros(144, dtype=torch.float64).index_add_(0, cells[0], mass)
    found = cells[1].bincount(minlength=144).double()
    often = expected >= 5
    assert found[~often].sum() <= expected[~often].sum() + 20
    statistic = float(((found - expected)[often] ** 2 / expected[often]).sum())
    degrees = int(often.sum()) - 1
    assert statistic < degrees + 4 * math.sqrt(2 * degrees)


def test_entropy_of_draws_is_that_of_the_density(data: ToyDataModule) -> None:
    step = 0.02
    log_prob = data.log_prob(grid(step))
    entropy = -(log_prob.exp() * log_prob.nan_to_num(neginf=0.0)).sum() * step**2
    surprise = -data.log_prob(data.draw(20_000, generator_for(1)))
    error = float(surprise.std()) / math.sqrt(20_000)
    assert float(surprise.mean()) == pytest.approx(float(entropy), abs=4 * error + 2e-3)


def test_parts_have_their_sizes(data: ToyDataModule) -> None:
    assert [len(part) for part in data.parts] == [300, 200, 200]  # type: ignore[arg-type]


def test_parts_share_no_point(data: ToyDataModule) -> None:
    points = torch.cat([part[:][0] for part in data.parts])
    assert len(points.unique(dim=0)) == len(points)


def test_parts_are_the_same_every_time(name: str, data: ToyDataModule) -> None:
    torch.manual_seed(7)
    for first, second in zip(data.parts, toy(name).parts, strict=True):
        assert torch.equal(first[:][0], second[:][0])


def test_another_data_seed_gives_other_points(name: str, data: ToyDataModule) -> None:
    other = toy(name, data_seed=1)
    assert not torch.equal(data.parts.test[:][0], other.parts.test[:][0])


@pytest.mark.parametrize("name", ["25 Gaussians", "8 Gaussians", "3 Gaussians"], indirect=True)
def test_draws_reach_all_modes(data: GaussianModesDataModule) -> None:
    draws = data.draw(2000, generator_for(1))
    nearest = torch.cdist(draws, data.centers).argmin(1)
    assert len(nearest.unique()) == len(data.centers)


def test_density_at_a_centre_is_that_of_one_mode() -> None:
    data = toy("25 Gaussians")
    expected = -math.log(25 * 2 * math.pi * data.std**2)
    assert torch.allclose(data.log_prob(data.centers), torch.full((25,), expected))


def test_radius_below_zero_counts_in_the_other_direction() -> None:
    data = toy("wide rings", std=0.4)
    radius = data.draw(40_000, generator_for(1)).norm(dim=1)
    share = NormalDist(0.5, 0.4).cdf(0.2) - NormalDist(0.5, 0.4).cdf(-0.2)
    assert float((radius < 0.2).float().mean()) == pytest.approx(share, abs=4 * 0.5 / 200)
    density = (NormalDist(0.5, 0.4).pdf(0.1) + NormalDist(0.5, 0.4).pdf(-0.1)) / (2 * math.pi * 0.1)
    found = float(data.log_prob(torch.tensor([[0.1, 0.0]])))
    assert found == pytest.approx(math.log(density), rel=1e-5)


def test_black_squares_are_half_the_board() -> None:
    data = toy("checkerboard")
    points = torch.tensor([[-1.5, -1.5], [-1.5, -0.5], [1.5, 1.5], [2.5, 0.5]])
    expected = [-math.log(8), -math.inf, -math.log(8), -math.inf]
    assert data.log_prob(points).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("argument", [{"num_train": 0}, {"num_test": -1}])
def test_number_of_points_out_of_range_is_refused(name: str, argument: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="needs num_train, num_test ≥ 1"):
        toy(name, **argument)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("25 Gaussians", {"std": 0.0}),
        ("25 Gaussians", {"std": math.nan}),
        ("8 Gaussians", {"num_modes": 0}),
        ("8 Gaussians", {"radius": math.inf}),
        ("rings", {"distance": -1.0}),
        ("checkerboard", {"num_squares": 0}),
    ],
)
def test_size_out_of_range_is_refused(name: str, argument: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(argument))} is .*needs numbers above 0"):
        toy(name, **argument)
