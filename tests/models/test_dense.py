"""A VAE of small images made of linear layers."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaebm.errors import UsageError
from vaebm.models import DenseVAE

SHAPE = (2, 3, 5)
LATENTS = 4
NOISE_DIM = LATENTS + 2 * 3 * 5
MIN_SCALE = 0.25


@pytest.fixture
def vae() -> DenseVAE:
    return DenseVAE(SHAPE, latent_dim=LATENTS, width=7, depth=2, min_scale=MIN_SCALE)


def pixels(vae: DenseVAE, z: Tensor) -> Normal:
    """p(2x − 1 | z), from the decoder's output."""
    mean, log_scale = vae.decoder(z).chunk(2, dim=1)
    clamp = lambda value: 5 * torch.tanh(value / 5)  # noqa: E731
    return Normal(clamp(mean), clamp(log_scale).exp() + 0.01 + MIN_SCALE)


def test_noise_shapes_are_latents_then_pixels(vae: DenseVAE) -> None:
    assert vae.noise_shapes == ((LATENTS,), SHAPE)


def test_decode_gives_images(vae: DenseVAE) -> None:
    decoded = vae.decode(torch.randn(3, NOISE_DIM))
    assert decoded.image.shape == decoded.mean.shape == (3, *SHAPE)
    assert decoded.log_joint.shape == (3,)


def test_decoded_images_are_in_the_unit_interval(vae: DenseVAE) -> None:
    image = vae.decode(9 * torch.randn(9, NOISE_DIM)).image
    assert (image.min(), image.max()) == (0, 1)


def test_decode_shifts_scales_and_clamps_the_pixel_noise(vae: DenseVAE) -> None:
    eps = torch.randn(3, NOISE_DIM)
    normal = pixels(vae, eps[:, :LATENTS])
    signed = normal.mean + normal.stddev * eps[:, LATENTS:].view(3, *SHAPE)
    torch.testing.assert_close(vae.decode(eps).image, (signed.clamp(-1, 1) + 1) / 2)


def test_decoded_mean_is_not_clamped(vae: DenseVAE) -> None:
    torch.nn.init.constant_(vae.decoder[0][-1].bias, 3.0)
    assert vae.decode(torch.zeros(1, NOISE_DIM)).mean.min() > 1


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_joint_is_the_sum_of_all_log_probabilities(vae: DenseVAE, temperature: float) -> None:
    eps = torch.randn(3, NOISE_DIM)
    decoded = vae.decode(eps, temperature=temperature)
    z = temperature * eps[:, :LATENTS]
    log_px = pixels(vae, z).log_prob(2 * decoded.image - 1).sum((1, 2, 3))
    expected = Normal(0.0, temperature).log_prob(z).sum(1) + log_px
    torch.testing.assert_close(decoded.log_joint, expected, atol=1e-3, rtol=1e-5)


def test_elbo_terms_equal_a_hand_computation(vae: DenseVAE) -> None:
    image, noise = torch.rand(3, *SHAPE), torch.randn(3, LATENTS)
    posterior = Normal(*vae.posterior(image))
    log_px, kl = vae.elbo(image, noise=noise)
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1, keepdim=True)
    torch.testing.assert_close(kl, expected, atol=1e-5, rtol=1e-5)
    z = posterior.mean + posterior.stddev * noise
    expected = pixels(vae, z).log_prob(2 * image - 1).sum((1, 2, 3))
    torch.testing.assert_close(log_px, expected, atol=1e-3, rtol=1e-5)


def test_elbo_gradient_reaches_all_parameters(vae: DenseVAE) -> None:
    vae.elbo(torch.rand(3, *SHAPE)).elbo.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


def test_encoder_sees_images_on_both_sides_of_zero(vae: DenseVAE) -> None:
    posterior = vae.posterior(torch.full((1, *SHAPE), 0.5))
    mean, _ = vae.encoder(torch.zeros(1, *SHAPE)).chunk(2, dim=1)
    torch.testing.assert_close(posterior.mean, 5 * torch.tanh(mean / 5))


@pytest.mark.parametrize("min_scale", [0.0, 0.1, 2.0])
def test_min_scale_is_added_to_every_scale(min_scale: float) -> None:
    vae = DenseVAE(SHAPE, latent_dim=LATENTS, width=7, min_scale=min_scale)
    torch.nn.init.zeros_(vae.decoder[0][-1].weight)
    torch.nn.init.zeros_(vae.decoder[0][-1].bias)
    _, scale = vae.likelihood(torch.randn(3, LATENTS)).normal
    # exp(0) and the 0.01 that all soft-clamped scales have.
    torch.testing.assert_close(scale, torch.full((3, *SHAPE), 1.01 + min_scale))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_encoder_and_decoder_have_depth_hidden_layers(depth: int) -> None:
    vae = DenseVAE(SHAPE, latent_dim=LATENTS, width=7, depth=depth)
    for network in (vae.encoder, vae.decoder):
        assert sum(isinstance(m, torch.nn.Linear) for m in network.modules()) == depth + 1


def test_negative_min_scale_is_refused() -> None:
    with pytest.raises(UsageError, match=r"min_scale is -0\.1"):
        DenseVAE(SHAPE, min_scale=-0.1)
