"""VAE and energy for small images."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaebm.errors import UsageError
from vaebm.models import ConvEnergy, ConvVAE

SHAPE = (2, 8, 12)
LATENTS = 5
NOISE_DIM = LATENTS + 2 * 8 * 12


@pytest.fixture
def vae() -> ConvVAE:
    return ConvVAE(SHAPE, latent_dim=LATENTS, channels=4)


@pytest.fixture
def energy() -> ConvEnergy:
    return ConvEnergy(image_channels=2, channels=4, num_scales=2)


def test_noise_shapes_are_latents_then_pixels(vae: ConvVAE) -> None:
    assert vae.noise_shapes == ((LATENTS,), SHAPE)


def test_decode_gives_images(vae: ConvVAE) -> None:
    decoded = vae.decode(torch.randn(3, NOISE_DIM))
    assert decoded.image.shape == decoded.mean.shape == (3, *SHAPE)
    assert decoded.log_joint.shape == (3,)


def test_decoded_images_are_in_the_unit_interval(vae: ConvVAE) -> None:
    image = vae.decode(5 * torch.randn(3, NOISE_DIM)).image
    assert (image.min(), image.max()) == (0, 1)


def test_decode_shifts_scales_and_clamps_the_pixel_noise(vae: ConvVAE) -> None:
    eps = torch.randn(3, NOISE_DIM)
    mean, scale = vae.likelihood(eps[:, :LATENTS]).normal
    signed = (mean + scale * eps[:, LATENTS:].view(3, *SHAPE)).clamp(-1, 1)
    torch.testing.assert_close(vae.decode(eps).image, (signed + 1) / 2)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_joint_is_the_sum_of_all_log_probabilities(vae: ConvVAE, temperature: float) -> None:
    eps = torch.randn(3, NOISE_DIM)
    decoded = vae.decode(eps, temperature=temperature)
    z = temperature * eps[:, :LATENTS]
    pixels = Normal(*vae.likelihood(z).normal).log_prob(2 * decoded.image - 1)
    expected = Normal(0.0, temperature).log_prob(z).sum(1) + pixels.sum((1, 2, 3))
    torch.testing.assert_close(decoded.log_joint, expected, atol=1e-3, rtol=1e-5)


def test_temperature_scales_the_latents_and_not_the_pixel_noise(vae: ConvVAE) -> None:
    eps = torch.randn(3, NOISE_DIM)
    scaled = torch.cat([0.6 * eps[:, :LATENTS], eps[:, LATENTS:]], dim=1)
    torch.testing.assert_close(vae.decode(eps, temperature=0.6).image, vae.decode(scaled).image)


def test_elbo_terms_equal_a_hand_computation(vae: ConvVAE) -> None:
    image, noise = torch.rand(3, *SHAPE), torch.randn(3, LATENTS)
    posterior = Normal(*vae.posterior(image))
    pixels = Normal(*vae.likelihood(posterior.mean + posterior.stddev * noise).normal)
    log_px, kl = vae.elbo(image, noise=noise)
    expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1, keepdim=True)
    torch.testing.assert_close(kl, expected, atol=1e-5, rtol=1e-5)
    expected = pixels.log_prob(2 * image - 1).sum((1, 2, 3))
    torch.testing.assert_close(log_px, expected, atol=1e-3, rtol=1e-5)


def test_elbo_gradient_reaches_all_parameters(vae: ConvVAE) -> None:
    vae.elbo(torch.rand(3, *SHAPE)).elbo.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())


@pytest.mark.parametrize("sides", [(6, 8), (8, 10), (7, 7), (2, 4)])
def test_vae_refuses_sides_that_are_no_multiples_of_four(sides: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 4"):
        ConvVAE((1, *sides))


@pytest.mark.parametrize("sides", [(4, 4), (8, 8), (12, 16), (9, 11)])
def test_energy_gives_one_number_an_image(energy: ConvEnergy, sides: tuple[int, int]) -> None:
    assert energy(torch.rand(3, 2, *sides)).shape == (3,)


def test_energy_of_an_image_does_not_depend_on_the_others(energy: ConvEnergy) -> None:
    images = torch.rand(3, *SHAPE)
    torch.testing.assert_close(energy(images)[1:2], energy(images[1:2]))


@pytest.mark.parametrize("num_scales", [1, 2, 3])
def test_energy_gradient_reaches_all_parameters(num_scales: int) -> None:
    energy = ConvEnergy(image_channels=2, channels=4, num_scales=num_scales)
    energy(torch.rand(3, *SHAPE)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in energy.parameters())


def test_penalty_is_the_sum_of_all_convolutions_spectral_norms(energy: ConvEnergy) -> None:
    weights = [p.flatten(1) for p in energy.parameters() if p.ndim == 4]
    exact = torch.stack([torch.linalg.matrix_norm(weight, ord=2) for weight in weights]).sum()
    for _ in range(50):  # the first call alone is within a few 1e-3 where norms lie close
        penalty = energy.penalty()
    torch.testing.assert_close(penalty, exact, rtol=1e-3, atol=0)


def test_penalty_gradient_reaches_all_convolutions(energy: ConvEnergy) -> None:
    energy.penalty().backward()
    assert all(p.grad is not None and p.grad.any() for p in energy.parameters() if p.ndim == 4)


@pytest.mark.parametrize("patch_size", [2, 4])
def test_energy_of_patches_is_that_of_the_unshuffled_image(patch_size: int) -> None:
    energy = ConvEnergy(2, channels=4, num_scales=2, patch_size=patch_size)
    plain = ConvEnergy(2 * patch_size**2, channels=4, num_scales=2)
    plain.load_state_dict(dict(zip(plain.state_dict(), energy.state_dict().values(), strict=True)))
    images = torch.rand(3, 2, 16, 24)
    squares = images.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size))
    channels = squares.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # B C s s' H/s W/s'
    torch.testing.assert_close(energy(images), plain(channels))


def test_energy_without_patches_keeps_its_state_names() -> None:
    plain, patched = (ConvEnergy(1, 4, num_scales=2, patch_size=size) for size in (1, 2))
    # Checkpoints of before patch_size have these.
    expected = {f"net.{i}.{p}" for i, p in LAYERS} | {"linear.weight", "linear.bias"}
    assert {name for name, _ in plain.named_parameters()} == expected
    assert len(list(patched.parameters())) == len(expected)


CONV = ("weight", "bias")
BLOCK = (*(f"{name}.{p}" for name in ("conv1", "conv2") for p in CONV),)
LAYERS = [
    *((0, p) for p in CONV), *((1, p) for p in (*BLOCK, "skip.weight")), *((3, p) for p in BLOCK),
]  # fmt: skip


@pytest.mark.parametrize("patch_size", [0, -1])
def test_energy_of_patches_without_pixels_is_refused(patch_size: int) -> None:
    with pytest.raises(UsageError, match=f"patch_size is {patch_size}"):
        ConvEnergy(patch_size=patch_size)
