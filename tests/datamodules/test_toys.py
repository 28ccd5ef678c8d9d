"""25 Gaussians: density, draws and parts."""

import math

import pytest
import torch

from vaebm.datamodules import Gaussians25DataModule
from vaebm.errors import UsageError
from vaebm.noise import generator_for


@pytest.fixture
def data() -> Gaussians25DataModule:
    return Gaussians25DataModule(num_train=300, num_test=200)


def test_density_integrates_to_one(data: Gaussians25DataModule) -> None:
    step = 0.02
    ticks = torch.arange(-2.5, 2.5, step, dtype=torch.float64)
    mass = data.log_prob(torch.cartesian_prod(ticks, ticks)).exp().sum() * step**2
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_density_at_a_centre_is_that_of_one_mode(data: Gaussians25DataModule) -> None:
    expected = -math.log(25 * 2 * math.pi * data.std**2)
    assert torch.allclose(data.log_prob(data.centers), torch.full((25,), expected))


def test_entropy_of_draws_is_that_of_the_density(data: Gaussians25DataModule) -> None:
    draws = data.draw(20_000, generator_for(1))
    entropy = math.log(25) + 1 + math.log(2 * math.pi * data.std**2)
    assert -float(data.log_prob(draws).mean()) == pytest.approx(entropy, abs=0.03)


def test_draws_reach_all_modes(data: Gaussians25DataModule) -> None:
    draws = data.draw(2000, generator_for(1))
    assert len(torch.cdist(draws, data.centers).argmin(1).unique()) == 25


def test_parts_have_their_sizes(data: Gaussians25DataModule) -> None:
    assert [len(part) for part in data.parts] == [300, 200, 200]  # type: ignore[arg-type]


def test_parts_share_no_point(data: Gaussians25DataModule) -> None:
    points = torch.cat([part[:][0] for part in data.parts])
    assert len(points.unique(dim=0)) == len(points)


def test_parts_are_the_same_every_time(data: Gaussians25DataModule) -> None:
    torch.manual_seed(7)
    again = Gaussians25DataModule(num_train=300, num_test=200)
    for first, second in zip(data.parts, again.parts, strict=True):
        assert torch.equal(first[:][0], second[:][0])


def test_another_data_seed_gives_other_points(data: Gaussians25DataModule) -> None:
    other = Gaussians25DataModule(num_train=300, num_test=200, data_seed=1)
    assert not torch.equal(data.parts.test[:][0], other.parts.test[:][0])


@pytest.mark.parametrize("argument", [{"num_train": 0}, {"num_test": -1}, {"std": 0.0}])
def test_argument_out_of_range_is_refused(argument: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="needs num_train, num_test ≥ 1 and std > 0"):
        Gaussians25DataModule(**argument)  # type: ignore[arg-type]
