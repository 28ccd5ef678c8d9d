"""Where chains live: contracts of every space, and the densities of the built-in ones."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.toys import LinearVAE, QuadraticEnergy
from vaebm.distributions import LOG_2PI
from vaebm.errors import UsageError
from vaebm.models import MLPVAE, VAE, ConvVAE
from vaebm.noise import RowGenerators, generator_for, standard_normal
from vaebm.samplers import LangevinSampler, ResamplingSampler
from vaebm.samplers.base import value_and_grad
from vaebm.spaces import DataSpace, NoiseSpace, Space, prior_noise, spaces

B = 6
SIGMAS = 5

VAES: dict[str, Callable[[], VAE]] = {
    "points": lambda: MLPVAE(latent_dim=3, width=8, depth=1),
    "images": lambda: ConvVAE((2, 4, 8), latent_dim=3, channels=4),
}


@pytest.fixture(params=spaces.names())
def space(request: pytest.FixtureRequest) -> Space:
    return spaces[request.param]()


@pytest.fixture(params=VAES)
def vae(request: pytest.FixtureRequest) -> VAE:
    return VAES[request.param]().requires_grad_(False)


@pytest.fixture
def energy() -> QuadraticEnergy:
    return QuadraticEnergy(curvature=2.0, centre=0.3)


def test_start_is_a_flat_float_state(space: Space, vae: VAE) -> None:
    start = space.start(vae, B, generator=generator_for(0))
    assert (start.ndim, len(start), start.dtype) == (2, B, torch.float32)


def test_start_is_a_function_of_its_generator(space: Space, vae: VAE) -> None:
    starts = [space.start(vae, B, generator=generator_for(seed)) for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_start_leaves_the_global_generator_alone(space: Space, vae: VAE) -> None:
    before = torch.get_rng_state()
    space.start(vae, B, generator=generator_for(0))
    assert torch.equal(before, torch.get_rng_state())


def test_start_of_a_chain_does_not_depend_on_the_batch(space: Space, vae: VAE) -> None:
    whole = space.start(vae, B, generator=RowGenerators(0, range(B)))
    part = space.start(vae, 2, generator=RowGenerators(0, [3, 4]))
    torch.testing.assert_close(part, whole[3:5])


def test_potential_is_one_number_a_chain(space: Space, vae: VAE, energy: QuadraticEnergy) -> None:
    start = space.start(vae, B, generator=generator_for(0))
    assert space.potential(vae, energy)(start).shape == (B,)


def test_potential_of_a_chain_does_not_depend_on_the_others(
    space: Space, vae: VAE, energy: QuadraticEnergy
) -> None:
    start = space.start(vae, B, generator=generator_for(0))
    potential = space.potential(vae, energy)
    torch.testing.assert_close(potential(start)[2:4], potential(start[2:4]))


def test_potential_gradient_agrees_with_finite_differences(
    space: Space, energy: QuadraticEnergy
) -> None:
    vae = MLPVAE(latent_dim=3, width=8, depth=1).requires_grad_(False)
    start = space.start(vae, B, generator=generator_for(0)).double()
    potential = space.potential(vae.double(), energy.double())
    _, grad = value_and_grad(potential, start)
    step = 1e-5 * torch.eye(start.shape[1], dtype=torch.float64)
    columns = [(potential(start + h) - potential(start - h)) / 2e-5 for h in step]
    torch.testing.assert_close(grad, torch.stack(columns, dim=1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mean", [False, True])
def test_image_has_the_shape_of_the_vae(space: Space, vae: VAE, mean: bool) -> None:
    start = space.start(vae, B, generator=generator_for(0))
    assert space.image(vae, start, mean=mean).shape == (B, *vae.image_shape)


def test_image_is_a_function_of_the_state(space: Space, vae: VAE) -> None:
    start = space.start(vae, B, generator=generator_for(0))
    assert torch.equal(space.image(vae, start), space.image(vae, start))


def test_potential_feels_the_energy_of_the_image(space: Space, vae: VAE) -> None:
    # Whatever a space adds, two energies differ in U by what they differ in E.
    state = space.start(vae, B, generator=generator_for(0))
    one, two = QuadraticEnergy(1.0), QuadraticEnergy(2.5, centre=0.4)
    difference = space.potential(vae, two)(state) - space.potential(vae, one)(state)
    image = space.image(vae, state)
    torch.testing.assert_close(difference, two(image) - one(image), atol=1e-4, rtol=1e-4)


def test_prior_noise_is_standard_normal_noise_of_all_groups(vae: VAE) -> None:
    noise = prior_noise(vae, B, generator=generator_for(0))
    assert torch.equal(noise, standard_normal(B, vae.noise_dim, generator=generator_for(0)))


@pytest.mark.parametrize("prior", ["noise", "joint"])
def test_noise_space_starts_from_the_prior(vae: VAE, prior: str) -> None:
    space = NoiseSpace(prior)  # type: ignore[arg-type]
    start = space.start(vae, B, generator=generator_for(0))
    assert torch.equal(start, prior_noise(vae, B, generator=generator_for(0)))


def test_noise_space_image_is_the_decoded_sample_or_mean(vae: VAE) -> None:
    state = torch.randn(B, vae.noise_dim)
    decoded = vae.decode(state)
    assert torch.equal(NoiseSpace().image(vae, state), decoded.image)
    assert torch.equal(NoiseSpace().image(vae, state, mean=True), decoded.mean)


def test_noise_prior_potential_is_energy_plus_half_the_square_norm(
    vae: VAE, energy: QuadraticEnergy
) -> None:
    state = torch.randn(B, vae.noise_dim)
    expected = energy(vae.decode(state).image) + state.norm(dim=1) ** 2 / 2
    torch.testing.assert_close(NoiseSpace().potential(vae, energy)(state), expected)


def test_joint_prior_potential_is_energy_minus_log_joint(vae: VAE, energy: QuadraticEnergy) -> None:
    state = torch.randn(B, vae.noise_dim)
    decoded = vae.decode(state)
    expected = energy(decoded.image) - decoded.log_joint
    torch.testing.assert_close(NoiseSpace("joint").potential(vae, energy)(state), expected)


def both_priors(vae: VAE, energy: QuadraticEnergy, state: Tensor) -> tuple[Tensor, ...]:
    """U and gradient for the noise prior, then for the joint prior."""
    noise = value_and_grad(NoiseSpace("noise").potential(vae, energy), state)
    return *noise, *value_and_grad(NoiseSpace("joint").potential(vae, energy), state)


def test_priors_have_one_gradient_when_all_scales_are_fixed(
    linear_vae: LinearVAE, energy: QuadraticEnergy
) -> None:
    _, grad, _, joint_grad = both_priors(linear_vae, energy, torch.randn(B, 5))
    torch.testing.assert_close(joint_grad, grad, atol=1e-4, rtol=1e-4)


def test_priors_have_two_gradients_when_a_scale_depends_on_z(
    sloped_vae: LinearVAE, energy: QuadraticEnergy
) -> None:
    _, grad, _, joint_grad = both_priors(sloped_vae, energy, torch.randn(B, 5))
    # The Jacobian's Σ log σ = 3 (log σ₀ + slope · z₁) has the gradient 3 · slope in z₁ alone.
    expected = torch.zeros(B, 5)
    expected[:, 0] = 3 * sloped_vae.slope
    torch.testing.assert_close(joint_grad - grad, expected, atol=1e-4, rtol=1e-4)


def test_priors_differ_by_the_log_scales_and_a_constant(
    sloped_vae: LinearVAE, energy: QuadraticEnergy
) -> None:
    state = torch.randn(B, 5)
    value, _, joint_value, _ = both_priors(sloped_vae, energy, state)
    log_scales = 3 * (math.log(sloped_vae.sigma) + sloped_vae.slope * state[:, 0])
    expected = log_scales + 5 / 2 * LOG_2PI
    torch.testing.assert_close(joint_value - value, expected, atol=1e-4, rtol=1e-4)


def test_langevin_without_energy_leaves_the_prior_up_to_its_known_bias(
    sloped_vae: LinearVAE,
) -> None:
    chains, step_size = 10_000, 0.5
    space, sampler = NoiseSpace(), LangevinSampler(20, step_size=step_size)
    start = space.start(sloped_vae, chains, generator=generator_for(0))
    potential = space.potential(sloped_vae, QuadraticEnergy(curvature=0.0))
    state, _ = sampler.run(potential, start, generator=generator_for(1))
    variance = 1 / (1 - step_size / 4)  # 1e-5 of the start's is left after 20 steps
    covariance_error = variance * ((1 + torch.eye(5)) / chains).sqrt()
    assert (state.mean(0).abs() < SIGMAS * (variance / chains) ** 0.5).all()
    assert ((state.T.cov() - variance * torch.eye(5)).abs() < SIGMAS * covariance_error).all()


def test_noise_space_samples_the_vae_density_times_the_boltzmann_factor(
    linear_vae: LinearVAE,
) -> None:
    curvature, centre, pool, chains = 0.5, 1.0, 50_000, 20_000
    space, energy = NoiseSpace(), QuadraticEnergy(curvature, centre)
    with torch.no_grad():
        start = space.start(linear_vae, chains, generator=generator_for(0))
        sampler = ResamplingSampler(num_candidates=pool)
        potential = space.potential(linear_vae, energy)
        state, _ = sampler.run(potential, start, generator=generator_for(1))
        image = space.image(linear_vae, state)
        marginal = linear_vae.marginal()
        weights = (-energy(marginal.sample((pool,)))).exp()
    # N(x; b, S) exp(−½ a ‖x − m‖²) is normal with precision S⁻¹ + a I.
    precision = marginal.precision_matrix + curvature * torch.eye(3)
    shift = marginal.precision_matrix @ marginal.mean + curvature * centre
    mean, covariance = torch.linalg.solve(precision, shift), precision.inverse()
    size = 1 / (1 / (weights.sum() ** 2 / weights.square().sum()) + 1 / chains)
    variance = covariance.diagonal()
    squares = variance[:, None] * variance + covariance.square()
    assert ((image.mean(0) - mean).abs() < SIGMAS * (variance / size).sqrt()).all()
    assert ((image.T.cov() - covariance).abs() < SIGMAS * (squares / size).sqrt()).all()


def test_noise_space_refuses_an_unknown_prior() -> None:
    with pytest.raises(UsageError, match="'noise' or 'joint'"):
        NoiseSpace("eps")  # type: ignore[arg-type]


def test_data_space_potential_is_the_energy(vae: VAE, energy: QuadraticEnergy) -> None:
    image = torch.rand(B, *vae.image_shape)
    potential = DataSpace().potential(vae, energy)
    torch.testing.assert_close(potential(image.flatten(1)), energy(image))


@pytest.mark.parametrize("mean", [False, True])
def test_data_space_image_is_the_state(vae: VAE, mean: bool) -> None:
    image = torch.rand(B, *vae.image_shape)
    assert torch.equal(DataSpace().image(vae, image.flatten(1), mean=mean), image)


def test_data_space_starts_from_decoded_prior_noise_when_told(vae: VAE) -> None:
    start = DataSpace(init="vae").start(vae, B, generator=generator_for(0))
    image = vae.decode(prior_noise(vae, B, generator=generator_for(0))).image
    assert torch.equal(start, image.flatten(1))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-4.0, 2.0)])
def test_data_space_starts_uniformly_between_its_ends(
    linear_vae: LinearVAE, low: float, high: float
) -> None:
    number, width = 20_000, high - low
    start = DataSpace(low=low, high=high).start(linear_vae, number, generator=generator_for(0))
    assert low <= start.min() < low + 0.01 * width
    assert high - 0.01 * width < start.max() <= high
    error = width / (12 * number) ** 0.5
    assert ((start.mean(0) - (low + high) / 2).abs() < SIGMAS * error).all()


def test_data_space_refuses_an_unknown_start() -> None:
    with pytest.raises(UsageError, match="'uniform' or 'vae'"):
        DataSpace(init="data")  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0)])
def test_data_space_refuses_an_empty_range(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="is empty"):
        DataSpace(low=low, high=high)
