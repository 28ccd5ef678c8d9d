import pytest
import torch
from torch import Generator
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.metrics.linear import LinearVAE, QuadraticEnergy
from vaebm.distributions import DiagonalNormal
from vaebm.errors import DataError, UsageError
from vaebm.metrics.quadrature import (
    EnergyFunction,
    energies_of,
    log_partition,
    mixture_log_prob,
    mixture_on_grid,
    prior_mixture,
    vaebm_on_grid,
)
from vaebm.models import MLPVAE, MLPEnergy

VAE = LinearVAE()
ENERGY = QuadraticEnergy()


def small_mixture(num_components: int = 300) -> DiagonalNormal:
    generator = Generator().manual_seed(1)
    mean = torch.randn(num_components, 2, generator=generator, dtype=torch.float64)
    scale = torch.rand(num_components, 2, generator=generator, dtype=torch.float64) + 0.1
    return DiagonalNormal(mean, scale)


def as_distribution(mixture: DiagonalNormal) -> MixtureSameFamily:
    weights = Categorical(logits=torch.zeros(len(mixture.mean), dtype=torch.float64))
    return MixtureSameFamily(weights, Independent(Normal(mixture.mean, mixture.scale), 1))


def points(count: int = 500) -> torch.Tensor:
    generator = Generator().manual_seed(2)
    return 2 * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def data(count: int) -> torch.Tensor:
    torch.manual_seed(3)
    return VAE.marginal.sample((count,))


def standard_normal() -> DiagonalNormal:
    return DiagonalNormal(torch.zeros(1, 2).double(), torch.ones(1, 2).double())


def linear_energy(slope: float) -> EnergyFunction:
    return lambda image: -slope * image[:, 0]


def test_mixture_log_prob_equals_torch_distributions() -> None:
    mixture = small_mixture()
    expected = as_distribution(mixture).log_prob(points())
    torch.testing.assert_close(mixture_log_prob(points(), mixture), expected)


def test_mixture_log_prob_stays_finite_where_the_density_underflows() -> None:
    far = torch.tensor([[1e3, -1e3]], dtype=torch.float64)
    expected = as_distribution(small_mixture()).log_prob(far)
    torch.testing.assert_close(mixture_log_prob(far, small_mixture()), expected)


def test_mixture_on_grid_equals_the_density_at_every_point() -> None:
    mixture = small_mixture()
    axis_x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    axis_y = torch.linspace(-1, 3, 5, dtype=torch.float64)
    expected = mixture_log_prob(torch.cartesian_prod(axis_x, axis_y), mixture).exp().view(7, 5)
    torch.testing.assert_close(mixture_on_grid(axis_x, axis_y, mixture), expected)


def test_mixture_on_grid_adds_up_chunks_of_components() -> None:
    axis = torch.linspace(-2, 2, 5, dtype=torch.float64)
    mixture = small_mixture(20_000)
    expected = as_distribution(mixture).log_prob(torch.cartesian_prod(axis, axis)).exp().view(5, 5)
    torch.testing.assert_close(mixture_on_grid(axis, axis, mixture), expected)


def test_log_partition_sums_the_cells() -> None:
    log_prob = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).log()
    energy = -torch.tensor([[1.0, 1.0], [2.0, 0.5]]).log()
    expected = torch.tensor((1 + 2 + 6 + 2) * 0.25).log()
    torch.testing.assert_close(log_partition(log_prob, energy, 0.25), expected)


def test_prior_mixture_of_a_linear_vae_has_its_analytic_density() -> None:
    sample = data(500)
    error = mixture_log_prob(sample, prior_mixture(VAE, 2**15)) - VAE.marginal.log_prob(sample)
    assert error.abs().mean() < 3e-3


def test_prior_mixture_beats_plain_prior_draws() -> None:
    sample = data(200)
    z = torch.randn(2**12, 3, generator=Generator().manual_seed(0), dtype=torch.float64)
    plain, quasi = VAE.likelihood(z), prior_mixture(VAE, 2**12)
    expected = VAE.marginal.log_prob(sample)
    errors = [(mixture_log_prob(sample, m) - expected).abs().mean() for m in (quasi, plain)]
    assert errors[0] < 0.5 * errors[1]


def test_prior_mixture_depends_on_its_seed_alone() -> None:
    first = prior_mixture(VAE, 64, seed=1).mean
    torch.manual_seed(5)
    assert torch.equal(first, prior_mixture(VAE, 64, seed=1).mean)
    assert not torch.equal(first, prior_mixture(VAE, 64, seed=2).mean)


def test_prior_mixture_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    prior_mixture(VAE, 64)
    assert torch.equal(before, torch.get_rng_state())


def test_prior_mixture_of_a_network_is_float64_without_gradients() -> None:
    mixture = prior_mixture(MLPVAE(latent_dim=2, width=8, depth=1), 64)
    assert mixture.mean.dtype == mixture.scale.dtype == torch.float64
    assert not mixture.mean.requires_grad


@pytest.mark.parametrize("num_draws", [0, 3, 1000])
def test_prior_mixture_refuses_numbers_that_are_no_power_of_two(num_draws: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        prior_mixture(VAE, num_draws)


def test_grid_holds_all_of_the_vae() -> None:
    grid = vaebm_on_grid(prior_mixture(VAE, 2**12), spacing=0.1)
    assert abs(grid.mass - 1) < 1e-6


def test_log_z_equals_the_closed_form_of_a_quadratic_energy() -> None:
    grid = vaebm_on_grid(prior_mixture(VAE, 2**14), ENERGY, spacing=0.1)
    torch.testing.assert_close(grid.log_z, ENERGY.log_z(VAE.marginal), rtol=0, atol=1e-3)


def test_log_z_counts_regions_that_the_vae_hardly_reaches() -> None:
    grid = vaebm_on_grid(standard_normal(), linear_energy(2.0), spacing=0.1)
    assert grid.log_z.item() == pytest.approx(2.0, abs=1e-4)  # ∫ N(x) exp(a x) dx = exp(a² / 2)


def test_edge_mass_is_zero_if_the_density_ends_inside() -> None:
    assert vaebm_on_grid(standard_normal(), linear_energy(0.0), spacing=0.1).edge_mass < 1e-6


def test_edge_mass_tells_of_an_energy_that_falls_outwards() -> None:
    assert vaebm_on_grid(standard_normal(), linear_energy(20.0), spacing=0.1).edge_mass > 0.1


def test_density_of_the_vaebm_sums_to_one() -> None:
    grid = vaebm_on_grid(prior_mixture(VAE, 2**10), ENERGY, spacing=0.1)
    assert abs(grid.log_prob_vaebm.exp().sum() * grid.cell_area - 1) < 1e-9


def test_grid_density_of_the_vaebm_equals_the_closed_form() -> None:
    grid = vaebm_on_grid(prior_mixture(VAE, 2**14), ENERGY, spacing=0.1)
    place = torch.cartesian_prod(grid.axis_x, grid.axis_y)
    expected = ENERGY.tilt(VAE.marginal).log_prob(place).exp().view_as(grid.log_prob)
    torch.testing.assert_close(grid.log_prob_vaebm.exp(), expected, rtol=0, atol=3e-3)


def test_quadrature_error_bounds_the_effect_of_halving_the_spacing() -> None:
    mixture = prior_mixture(VAE, 2**10)
    grid, fine = (vaebm_on_grid(mixture, ENERGY, spacing=step) for step in (0.4, 0.2))
    assert (grid.log_z - fine.log_z).abs() <= grid.quadrature_error


def test_grid_refuses_a_spacing_that_misses_the_mass() -> None:
    narrow = DiagonalNormal(
        torch.tensor([[0.05, 0.05]]).double(), torch.full((1, 2), 0.01).double()
    )
    with pytest.raises(DataError, match="use a smaller one"):
        vaebm_on_grid(narrow, spacing=0.1)


@pytest.mark.parametrize("spacing", [1e-4, 0.0, -0.1])
def test_grid_refuses_a_spacing_that_makes_no_sensible_grid(spacing: float) -> None:
    with pytest.raises(UsageError, match="spacing"):
        vaebm_on_grid(prior_mixture(VAE, 64), spacing=spacing)


def test_grid_refuses_points_of_other_dimensions() -> None:
    mixture = DiagonalNormal(torch.zeros(4, 3).double(), torch.ones(4, 3).double())
    with pytest.raises(UsageError, match="2 dimensions"):
        vaebm_on_grid(mixture)


def test_energies_of_a_float32_network_come_back_as_float64() -> None:
    energy = MLPEnergy(width=8, depth=1)
    energies = energies_of(energy, points(9))
    assert energies.dtype == torch.float64
    torch.testing.assert_close(energies.float(), energy(points(9).float()))
