"""VAE and energy for 2-D toys."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaebm.models import MLPVAE, MLPEnergy


@pytest.fixture
def vae() -> MLPVAE:
    return MLPVAE(latent_dim=3, width=8, depth=2)


@pytest.fixture
def line_vae() -> MLPVAE:
    """One latent and one data dimension: every integral can be done on a grid."""
    vae = MLPVAE(data_dim=1, latent_dim=1, width=16, depth=2).double()
    with torch.no_grad():  # at the default initialisation x hardly depends on z
        vae.decoder[-1].weight[0] *= 30
    return vae


GRID = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]


def integral(values: Tensor) -> Tensor:
    return torch.trapezoid(values, GRID[:, 0])


def log_px(vae: MLPVAE, image: Tensor) -> Tensor:
    """log ∫ p(z) p(x|z) dz of points on the line, by quadrature."""
    mean, scale = vae.likelihood(GRID)
    log_prior = Normal(0.0, 1.0).log_prob(GRID[:, 0])
    log_likelihood = Normal(mean[:, 0], scale[:, 0]).log_prob(image)  # (B, grid)
    return integral((log_prior + log_likelihood).exp()).log()


def test_decode_gives_points(vae: MLPVAE) -> None:
    decoded = vae.decode(torch.randn(4, 5))
    assert (decoded.image.shape, decoded.mean.shape, decoded.log_joint.shape) == (
        (4, 2),
        (4, 2),
        (4,),
    )


def test_decode_shifts_and_scales_the_pixel_noise(vae: MLPVAE) -> None:
    eps = torch.randn(4, 5)
    mean, scale = vae.likelihood(eps[:, :3])
    torch.testing.assert_close(vae.decode(eps).image, mean + scale * eps[:, 3:])


def test_decoded_mean_does_not_depend_on_the_pixel_noise(vae: MLPVAE) -> None:
    eps = torch.randn(4, 5)
    other = torch.cat([eps[:, :3], torch.randn(4, 2)], dim=1)
    assert torch.equal(vae.decode(eps).mean, vae.decode(other).mean)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_joint_is_the_sum_of_all_log_probabilities(vae: MLPVAE, temperature: float) -> None:
    eps = torch.randn(4, 5)
    decoded = vae.decode(eps, temperature=temperature)
    z = temperature * eps[:, :3]
    expected = Normal(0.0, temperature).log_prob(z).sum(1)
    expected = expected + Normal(*vae.likelihood(z)).log_prob(decoded.image).sum(1)
    torch.testing.assert_close(decoded.log_joint, expected)


def test_temperature_scales_the_latents_and_not_the_pixel_noise(vae: MLPVAE) -> None:
    eps = torch.randn(4, 5)
    scaled = torch.cat([0.6 * eps[:, :3], eps[:, 3:]], dim=1)
    torch.testing.assert_close(vae.decode(eps, temperature=0.6).image, vae.decode(scaled).image)


def test_elbo_terms_equal_a_hand_computation(vae: MLPVAE) -> None:
    image, noise = torch.randn(4, 2), torch.randn(4, 3)
    posterior = Normal(*vae.posterior(image))
    z = posterior.mean + posterior.stddev * noise
    log_px, kl = vae.elbo(image, noise=noise)
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1, keepdim=True)
    torch.testing.assert_close(kl, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_px, Normal(*vae.likelihood(z)).log_prob(image).sum(1))


def test_elbo_draws_its_noise_afresh_when_none_is_given(vae: MLPVAE) -> None:
    image = torch.randn(4, 2)
    assert not torch.equal(vae.elbo(image).log_px, vae.elbo(image).log_px)


@torch.no_grad()
def test_elbo_is_below_log_px_by_the_divergence_of_the_posterior(line_vae: MLPVAE) -> None:
    for point in torch.tensor([[[-1.5]], [[0.2]], [[2.0]]], dtype=torch.float64):
        images = point.expand(len(GRID), 1)
        density = Normal(0.0, 1.0).log_prob(GRID[:, 0]).exp()
        elbo = integral(density * line_vae.elbo(images, noise=GRID).elbo)
        exact = log_px(line_vae, point)[0]
        posterior = Normal(*(field[0, 0] for field in line_vae.posterior(point)))
        log_q = posterior.log_prob(GRID[:, 0])
        likelihood = Normal(*(field[:, 0] for field in line_vae.likelihood(GRID)))
        log_true = Normal(0.0, 1.0).log_prob(GRID[:, 0]) + likelihood.log_prob(point[0]) - exact
        divergence = integral(log_q.exp() * (log_q - log_true))
        assert divergence > 1e-3  # the check below is about a real gap
        assert (exact - elbo).item() == pytest.approx(divergence.item(), abs=1e-6)


@torch.no_grad()
def test_decoded_points_follow_the_mixture_density(line_vae: MLPVAE) -> None:
    number = 50_000
    points = line_vae.decode(torch.randn(number, 2, dtype=torch.float64)).image[:, 0]
    mean, scale = (field[:, 0] for field in line_vae.likelihood(GRID))
    density = Normal(0.0, 1.0).log_prob(GRID[:, 0]).exp()
    at = points.quantile(torch.linspace(0.02, 0.98, 49, dtype=torch.float64))
    cdf = integral(density * Normal(mean, scale).cdf(at[:, None]))
    empirical = (points <= at[:, None]).double().mean(1)
    # Dvoretzky, Kiefer, Wolfowitz: exceeded with probability 1e-6.
    assert (cdf - empirical).abs().max() < math.sqrt(math.log(2e6) / (2 * number))


def test_elbo_gradient_reaches_all_parameters(vae: MLPVAE) -> None:
    vae.elbo(torch.randn(8, 2)).elbo.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


def test_energy_gives_one_number_a_point() -> None:
    assert MLPEnergy(width=8, depth=2)(torch.randn(5, 2)).shape == (5,)


def test_energy_of_a_point_does_not_depend_on_the_others() -> None:
    energy, points = MLPEnergy(width=8, depth=2), torch.randn(5, 2)
    torch.testing.assert_close(energy(points)[2:3], energy(points[2:3]))


def test_input_scale_multiplies_the_first_layer_alone() -> None:
    states = []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        states.append(MLPEnergy(width=8, depth=2, input_scale=scale).state_dict())
    plain, scaled = states
    for name, value in plain.items():
        factor = 3 if name.startswith("net.0.") else 1
        if name.startswith("net."):
            torch.testing.assert_close(scaled[name], factor * value)


def test_energy_gradient_reaches_all_parameters() -> None:
    energy = MLPEnergy(width=8, depth=2)
    energy(torch.randn(5, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in energy.parameters())


def test_penalty_is_the_sum_of_all_spectral_norms() -> None:
    energy = MLPEnergy(width=8, depth=2)
    weights = [p for p in energy.parameters() if p.ndim == 2]
    exact = torch.stack([torch.linalg.matrix_norm(weight, ord=2) for weight in weights]).sum()
    for _ in range(50):  # the first call alone is within a few 1e-3 where norms lie close
        penalty = energy.penalty()
    torch.testing.assert_close(penalty, exact, rtol=1e-3, atol=0)


def test_penalty_gradient_reaches_all_weights() -> None:
    energy = MLPEnergy(width=8, depth=2)
    energy.penalty().backward()
    assert all(p.grad is not None for p in energy.parameters() if p.ndim == 2)
