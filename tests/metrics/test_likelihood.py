import pickle

import pytest
import torch
from torch import Tensor

from tests.metrics.linear import LinearVAE, QuadraticEnergy
from vaebm.errors import DataError
from vaebm.metrics import GridLikelihood
from vaebm.models import MLPVAE, MLPEnergy

VAE = LinearVAE()
ENERGY = QuadraticEnergy()
SMALL = {"spacing": 0.1, "num_draws": 2**12}


def points() -> Tensor:
    torch.manual_seed(3)
    return VAE.marginal.sample((400,))


def evaluated(metric: GridLikelihood, *batches: Tensor) -> dict[str, Tensor]:
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def test_nll_of_the_vae_equals_the_closed_form() -> None:
    figures = evaluated(GridLikelihood(VAE, spacing=0.1, num_draws=2**14), points())
    expected = -VAE.marginal.log_prob(points()).mean()
    torch.testing.assert_close(figures["nll_vae"], expected, rtol=0, atol=1e-3)


def test_nll_of_the_vaebm_equals_the_closed_form() -> None:
    figures = evaluated(GridLikelihood(VAE, ENERGY, spacing=0.1, num_draws=2**14), points())
    expected = -ENERGY.tilt(VAE.marginal).log_prob(points()).mean()
    torch.testing.assert_close(figures["nll_vaebm"], expected, rtol=0, atol=2e-3)


def test_log_z_equals_the_closed_form() -> None:
    figures = evaluated(GridLikelihood(VAE, ENERGY, spacing=0.1, num_draws=2**14), points())
    torch.testing.assert_close(figures["log_z"], ENERGY.log_z(VAE.marginal), rtol=0, atol=1e-3)


def test_without_an_energy_there_are_only_the_vae_figures() -> None:
    assert set(evaluated(GridLikelihood(VAE, **SMALL), points())) == {"nll_vae", "mass"}


def test_a_constant_energy_leaves_the_vae() -> None:
    metric = GridLikelihood(VAE, lambda image: torch.full_like(image[:, 0], 7.0), **SMALL)
    figures = evaluated(metric, points())
    torch.testing.assert_close(figures["nll_vaebm"], figures["nll_vae"])


def test_halving_the_spacing_hardly_moves_the_nll() -> None:
    nll = [
        evaluated(GridLikelihood(VAE, ENERGY, spacing=step, num_draws=2**12), points())["nll_vaebm"]
        for step in (0.1, 0.05)
    ]
    assert abs(nll[0] - nll[1]) < 0.005


def test_figures_are_float64() -> None:
    figures = evaluated(GridLikelihood(VAE, ENERGY, **SMALL), points().float())
    assert {value.dtype for value in figures.values()} == {torch.float64}


def test_two_updates_equal_one() -> None:
    metric = GridLikelihood(VAE, ENERGY, **SMALL)
    once = evaluated(metric, points())
    metric.reset()
    torch.testing.assert_close(evaluated(metric, points()[:123], points()[123:]), once)


def test_states_of_two_processes_add_up() -> None:
    metric, other = (GridLikelihood(VAE, ENERGY, **SMALL) for _ in range(2))
    metric.update(points()[:123])
    other.update(points()[123:])
    metric.merge_state(other)
    expected = evaluated(GridLikelihood(VAE, ENERGY, **SMALL), points())
    torch.testing.assert_close(metric.compute(), expected)


def test_reset_forgets_earlier_points() -> None:
    metric = GridLikelihood(VAE, ENERGY, **SMALL)
    metric.update(points() + 1)
    metric.reset()
    expected = evaluated(GridLikelihood(VAE, ENERGY, **SMALL), points())
    torch.testing.assert_close(evaluated(metric, points()), expected)


def test_without_points_there_is_a_data_error() -> None:
    metric = GridLikelihood(VAE, **SMALL)
    metric.update(points()[:0])
    with pytest.raises(DataError, match="no points"):
        metric.compute()


def network_metric() -> GridLikelihood:
    torch.manual_seed(0)
    vae = MLPVAE(latent_dim=2, width=8, depth=1)
    return GridLikelihood(vae, MLPEnergy(width=8, depth=1), spacing=0.25, num_draws=2**8)


def test_networks_stay_outside_the_metric() -> None:
    metric = network_metric()
    assert [*metric.parameters(), *metric.buffers(), *metric.state_dict()] == []


def test_metric_works_in_inference_mode() -> None:
    with torch.inference_mode():
        figures = evaluated(network_metric(), points())
    torch.testing.assert_close(figures, evaluated(network_metric(), points()))


def test_metric_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(network_metric()))
    torch.testing.assert_close(evaluated(copy, points()), evaluated(network_metric(), points()))
