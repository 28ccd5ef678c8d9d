"""Contracts of the networks, on decoders whose answers are known."""

from math import prod

import pytest
import torch
from torch import Size, Tensor

from tests.toys import LinearVAE
from vaebm.errors import UsageError
from vaebm.models import VAE, Decoded, ElboTerms, NoiseDecoder


class Grouped(NoiseDecoder):
    """Two latent groups of different shapes and pixels; the image is the pixel noise."""

    def __init__(self) -> None:
        super().__init__([(2, 2, 2), [3], Size([1, 2, 3])])

    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        image = self.split(eps)[-1]
        return Decoded(image, image, image.flatten(1).sum(1))


@pytest.fixture
def grouped() -> Grouped:
    return Grouped()


def test_noise_dim_is_the_total_of_all_groups(grouped: Grouped) -> None:
    assert grouped.noise_dim == 8 + 3 + 6


def test_latent_dim_leaves_the_pixels_out(grouped: Grouped) -> None:
    assert grouped.latent_dim == 8 + 3


def test_image_shape_is_that_of_the_last_group(grouped: Grouped) -> None:
    assert grouped.image_shape == Size([1, 2, 3])


def test_noise_shapes_are_sizes(grouped: Grouped) -> None:
    assert all(isinstance(shape, Size) for shape in grouped.noise_shapes)


def test_split_gives_one_part_per_group_in_order(grouped: Grouped) -> None:
    parts = grouped.split(torch.randn(5, 17))
    assert [part.shape for part in parts] == [(5, 2, 2, 2), (5, 3), (5, 1, 2, 3)]


def test_split_parts_cover_the_noise_in_order(grouped: Grouped) -> None:
    eps = torch.randn(5, 17)
    assert torch.equal(torch.cat([part.flatten(1) for part in grouped.split(eps)], dim=1), eps)


def test_split_parts_share_storage_with_the_noise(grouped: Grouped) -> None:
    eps = torch.randn(5, 17)
    for part in grouped.split(eps):
        part.fill_(2.5)
    assert (eps == 2.5).all()


@pytest.mark.parametrize("shape", [(5, 16), (5, 18), (17,), (5, 17, 1), (17, 5)])
def test_split_refuses_noise_of_another_shape(grouped: Grouped, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(B, 17\) is due"):
        grouped.split(torch.zeros(shape))


class Bare(Grouped, VAE):
    """A VAE that offers nothing but what it must."""

    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        return ElboTerms(image.flatten(1).sum(1), image.flatten(1))


@pytest.mark.parametrize("method", ["log_weight", "reconstruct", "joint_state", "decode_joint"])
def test_what_a_vae_does_not_offer_is_refused_by_name(method: str) -> None:
    with pytest.raises(UsageError, match=rf"Bare offers no .*\({method}\)"):
        getattr(Bare(), method)(torch.zeros(1, 17))


def test_clamp_keeps_images_in_the_unit_interval() -> None:
    assert Bare().clamp(torch.tensor([-1.0, 0.25, 3.0])).tolist() == [0.0, 0.25, 1.0]


def test_clamp_leaves_points_alone(linear_vae: LinearVAE) -> None:
    assert linear_vae.clamp(torch.tensor([-1.0, 0.25, 3.0])).tolist() == [-1.0, 0.25, 3.0]


def test_elbo_is_log_px_minus_the_sum_of_all_groups() -> None:
    terms = ElboTerms(torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 0.25], [1.0, 3.0]]))
    assert terms.elbo.tolist() == [0.25, -2.0]


def expected_elbo(vae: LinearVAE, image: Tensor) -> Tensor:
    """E_q of the ELBO: log p(x|z) is quadratic in the noise, so 2d sigma points are exact."""
    dim = vae.latent_dim
    points = dim**0.5 * torch.cat([torch.eye(dim), -torch.eye(dim)])
    repeated = image.repeat_interleave(len(points), dim=0)
    elbo = vae.elbo(repeated, noise=points.repeat(len(image), 1)).elbo
    return elbo.view(len(image), -1).mean(1)


def test_elbo_equals_log_px_when_the_posterior_is_exact(linear_vae: LinearVAE) -> None:
    image = torch.randn(6, 3)
    exact = linear_vae.marginal().log_prob(image)
    torch.testing.assert_close(expected_elbo(linear_vae, image), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shift", [-2.0, -0.3, 0.3, 2.0])
def test_elbo_is_below_log_px_by_the_divergence_of_the_posterior(shift: float) -> None:
    vae, image = LinearVAE(posterior_shift=shift), torch.randn(6, 3)
    gap = vae.marginal().log_prob(image) - expected_elbo(vae, image)
    # KL between normals of one scale whose means are `shift` scales apart, in each coordinate.
    expected = torch.full((6,), vae.latent_dim * shift**2 / 2)
    torch.testing.assert_close(gap, expected, atol=1e-4, rtol=1e-4)


def test_decoded_points_have_the_mean_and_covariance_of_the_marginal(
    linear_vae: LinearVAE,
) -> None:
    number = 100_000
    with torch.no_grad():
        image = linear_vae.decode(torch.randn(number, linear_vae.noise_dim)).image
        marginal = linear_vae.marginal()
    variance = marginal.covariance_matrix.diagonal()
    mean_error = (variance / number).sqrt()
    assert ((image.mean(0) - marginal.mean).abs() < 5 * mean_error).all()
    # Var of a sample covariance of normals: (Σ_ii Σ_jj + Σ_ij²) / n
    squares = variance[:, None] * variance + marginal.covariance_matrix.square()
    error = (image.T.cov() - marginal.covariance_matrix).abs()
    assert (error < 5 * (squares / number).sqrt()).all()


def test_noise_shapes_sum_to_noise_dim(linear_vae: LinearVAE) -> None:
    assert sum(prod(shape) for shape in linear_vae.noise_shapes) == linear_vae.noise_dim == 5
