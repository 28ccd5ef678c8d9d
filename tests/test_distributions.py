"""Normal distributions with soft-clamped parameters and pixel likelihoods."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaebm.distributions import DiagonalNormal, GaussianPixels, soft_clamp


@pytest.fixture
def normal() -> DiagonalNormal:
    return DiagonalNormal(torch.randn(4, 3), torch.rand(4, 3) + 0.1)


def test_log_prob_agrees_with_torch(normal: DiagonalNormal) -> None:
    value = 2 * torch.randn(4, 3)
    torch.testing.assert_close(normal.log_prob(value), Normal(*normal).log_prob(value))


def test_kl_agrees_with_torch(normal: DiagonalNormal) -> None:
    other = DiagonalNormal(torch.randn(4, 3), torch.rand(4, 3) + 0.1)
    expected = kl_divergence(Normal(*normal), Normal(*other))
    torch.testing.assert_close(normal.kl(other), expected, atol=1e-5, rtol=1e-5)


def test_kl_to_itself_is_zero(normal: DiagonalNormal) -> None:
    torch.testing.assert_close(normal.kl(normal), torch.zeros(4, 3))


def test_sample_shifts_and_scales_the_noise() -> None:
    normal = DiagonalNormal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]))
    assert normal.sample(torch.tensor([2.0, -1.0])).tolist() == [2.0, -5.0]


def test_standard_is_centred_with_the_temperature_as_scale() -> None:
    normal = DiagonalNormal.standard(torch.randn(2, 3), temperature=0.7)
    torch.testing.assert_close(normal.mean, torch.zeros(2, 3))
    torch.testing.assert_close(normal.scale, torch.full((2, 3), 0.7))


@pytest.mark.parametrize("value", [-300.0, -7.0, -0.1, 0.0, 0.1, 7.0, 300.0])
@pytest.mark.parametrize("limit", [5.0, 2.0])
def test_soft_clamp_is_the_scaled_tanh(value: float, limit: float) -> None:
    clamped = soft_clamp(torch.tensor(value), limit).item()
    assert clamped == pytest.approx(limit * math.tanh(value / limit), abs=1e-6)


def test_soft_clamp_hardly_changes_small_values() -> None:
    # tanh(v/5)·5 = v − v³/75 + …
    value = torch.linspace(-0.5, 0.5, 11)
    torch.testing.assert_close(soft_clamp(value), value - value**3 / 75, atol=1e-5, rtol=0)


@pytest.mark.parametrize("raw", [-100.0, -1.0, 0.0, 1.0, 100.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_soft_clamped_scale_follows_the_formula(raw: float, temperature: float) -> None:
    normal = DiagonalNormal.soft_clamped(torch.zeros(1), torch.tensor([raw]), temperature)
    expected = (math.exp(5 * math.tanh(raw / 5)) + 0.01) * temperature
    assert normal.scale.item() == pytest.approx(expected, rel=1e-5)


def test_soft_clamped_mean_follows_the_formula() -> None:
    normal = DiagonalNormal.soft_clamped(torch.tensor([3.0]), torch.zeros(1), temperature=0.5)
    assert normal.mean.item() == pytest.approx(5 * math.tanh(3 / 5), rel=1e-6)


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_soft_clamped_parameters_have_finite_gradients_at_extremes(raw: float) -> None:
    log_scale = torch.tensor([raw], requires_grad=True)
    normal = DiagonalNormal.soft_clamped(torch.tensor([raw]), log_scale)
    normal.log_prob(torch.zeros(1)).sum().backward()
    assert log_scale.grad is not None
    assert log_scale.grad.isfinite().all()


@pytest.fixture
def pixels() -> GaussianPixels:
    return GaussianPixels(DiagonalNormal(torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) + 0.1))


def test_pixel_samples_are_in_the_unit_interval(pixels: GaussianPixels) -> None:
    image = pixels.sample(10 * torch.randn(2, 3, 4, 4))
    assert (image.min(), image.max()) == (0, 1)


def test_pixel_sample_is_the_rescaled_normal_inside_the_range() -> None:
    pixels = GaussianPixels(DiagonalNormal(torch.full((1, 1, 1, 1), 0.2), torch.tensor(0.5)))
    image = pixels.sample(torch.full((1, 1, 1, 1), 0.8))
    assert image.item() == pytest.approx((0.2 + 0.5 * 0.8 + 1) / 2)


def test_pixel_mean_is_the_rescaled_mean(pixels: GaussianPixels) -> None:
    torch.testing.assert_close(pixels.mean, (pixels.normal.mean + 1) / 2)


def test_pixel_log_prob_is_that_of_the_rescaled_image(pixels: GaussianPixels) -> None:
    image = torch.rand(2, 3, 4, 4)
    expected = Normal(*pixels.normal).log_prob(2 * image - 1)
    torch.testing.assert_close(pixels.log_prob(image), expected)
