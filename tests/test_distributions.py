"""Normal distributions with soft-clamped parameters and pixel likelihoods."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vaebm.distributions import (
    BernoulliPixels,
    DiagonalNormal,
    GaussianPixels,
    LogisticMixturePixels,
    soft_clamp,
)


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


# Pixel likelihoods of NVAE


def mixture(bits: int, components: int = 3, side: int = 2) -> LogisticMixturePixels:
    """Random mixtures in float64, of scales between a bin and the whole range."""
    raw = torch.randn(1, 10 * components, side, side, dtype=torch.float64)
    return LogisticMixturePixels.from_raw(raw, bits)


def all_colours(bits: int) -> Tensor:
    """Every RGB value of a number of bits, ``(8^bits, 3)`` in [0, 1]."""
    levels = torch.arange(2**bits, dtype=torch.float64) / (2**bits - 1)
    return torch.cartesian_prod(levels, levels, levels)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_mixture_probabilities_sum_to_one(bits: int) -> None:
    pixels, colours = mixture(bits, side=1), all_colours(bits)
    images = colours.view(-1, 3, 1, 1)
    wide = LogisticMixturePixels(*(f.expand(len(images), *f.shape[1:]) for f in pixels[:4]), bits)
    total = wide.log_prob(images).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0)


def test_mixture_of_far_values_has_a_finite_gradient() -> None:
    raw = torch.full((1, 10, 1, 1), -30.0, requires_grad=True)
    LogisticMixturePixels.from_raw(raw, 8).log_prob(torch.full((1, 3, 1, 1), 0.5)).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_mixture_sample_has_a_finite_gradient_where_rounding_chooses_no_weight() -> None:
    raw = torch.zeros(1, 20, 1, 1)
    raw[0, 1] = -80.0  # the last component has no weight
    raw.requires_grad_()
    eps = torch.full((1, 3, 1, 1), 9.0, requires_grad=True)  # uniform number 1
    LogisticMixturePixels.from_raw(raw, 8).sample(eps).sum().backward()
    assert eps.grad is not None
    assert eps.grad.isfinite().all()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_mixture_samples_follow_the_mixture() -> None:
    # The sample is a real number; rounded to the nearest level it has the discretised law, since a
    # bin reaches half a level to both sides.
    bits, number = 2, 200_000
    pixels = mixture(bits, side=1)
    wide = LogisticMixturePixels(*(f.expand(number, *f.shape[1:]) for f in pixels[:4]), bits)
    eps = torch.randn(number, 3, 1, 1, dtype=torch.float64)
    red = (wide.sample(eps)[:, 0].flatten() * 3).round().long()
    colours = all_colours(bits)
    images = colours.view(-1, 3, 1, 1)
    table = LogisticMixturePixels(*(f.expand(64, *f.shape[1:]) for f in pixels[:4]), bits)
    expected = table.log_prob(images).exp().view(4, 16).sum(1)
    observed = torch.bincount(red, minlength=4) / number
    error = (expected * (1 - expected) / number).sqrt()
    assert ((observed - expected).abs() < 5 * error + 2e-4).all()


def test_mixture_sample_is_differentiable_in_the_noise() -> None:
    eps = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    mixture(8).sample(0.3 * eps).sum().backward()
    assert eps.grad is not None
    assert eps.grad.isfinite().all()
    assert eps.grad.any()


def test_mixture_of_one_component_has_its_means_as_mean() -> None:
    raw = torch.zeros(1, 10, 1, 1)
    raw[0, [1, 4, 7]] = torch.tensor([0.5, -0.2, 0.1])[:, None, None]
    raw[0, [3, 6, 9]] = torch.tensor([0.3, 0.6, -0.4])[:, None, None]
    k0, k1, k2 = torch.tensor([0.3, 0.6, -0.4]).tanh()
    red, green = 0.5, -0.2 + k0 * 0.5
    blue = 0.1 + k1 * red + k2 * green
    expected = (torch.tensor([red, green, blue]) + 1) / 2
    torch.testing.assert_close(LogisticMixturePixels.from_raw(raw, 8).mean.flatten(), expected)


def test_bernoulli_log_probabilities_are_those_of_torch() -> None:
    logits, image = torch.randn(2, 1, 3, 3), torch.randint(2, (2, 1, 3, 3)).float()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(image)
    torch.testing.assert_close(BernoulliPixels(logits).log_prob(image), expected)


def test_bernoulli_samples_have_their_probability() -> None:
    number, logit = 100_000, torch.tensor(0.7)
    image = BernoulliPixels(logit.expand(number)).sample(torch.randn(number))
    p = logit.sigmoid()
    assert abs(image.mean() - p) < 5 * (p * (1 - p) / number) ** 0.5


def test_floored_scale_is_bounded_below_and_the_mean_is_kept() -> None:
    mean, raw = torch.randn(3, 4), torch.linspace(-5, 2, 4).expand(3, -1)
    pixels = GaussianPixels(DiagonalNormal.soft_clamped(mean, raw))
    floored = pixels.floored().normal
    soft = 5 * (raw / 5).tanh()
    torch.testing.assert_close(floored.scale, soft.clamp(min=-2).exp() + 0.01)
    assert torch.equal(floored.mean, pixels.normal.mean)


def test_log_prob_of_noise_is_that_of_the_sample() -> None:
    normal, eps = DiagonalNormal(torch.randn(5), torch.rand(5) + 0.1), torch.randn(5)
    torch.testing.assert_close(
        normal.log_prob_of_noise(eps), normal.log_prob(normal.sample(eps)), atol=1e-4, rtol=1e-4
    )
