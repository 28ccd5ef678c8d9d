"""Chains on (z, x) itself: density, gradient, change of variables and stationary law."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tests.runs import LAST, STAGE_2, fit, run, trained
from tests.toys import LinearVAE, QuadraticEnergy
from vaebm.distributions import (
    LOG_2PI,
    BernoulliPixels,
    DiagonalNormal,
    GaussianPixels,
    LogisticMixturePixels,
    density_of,
)
from vaebm.errors import UsageError
from vaebm.models import MLPVAE, NVAE, VAE, ConvVAE, DenseVAE
from vaebm.noise import generator_for
from vaebm.samplers import LangevinSampler
from vaebm.samplers.base import value_and_grad
from vaebm.spaces import JointSpace, NoiseSpace, prior_noise

B = 4
SIGMAS = 5


def nvae(**changes: Any) -> NVAE:
    """Two latent groups at different resolutions, and scales that depend on what is above."""
    sizes: dict[str, Any] = {
        "image_shape": (1, 8, 8),
        "encoder_channels": 4,
        "decoder_channels": 4,
        "groups_per_scale": (1, 1),
        "latent_channels": 2,
        "encoder_cells": 1,
        "decoder_cells": 1,
        "num_preprocess_cells": 1,
        "num_postprocess_cells": 1,
    }
    vae = NVAE(**{**sizes, **changes})
    for name, parameter in vae.generator.named_parameters():
        if name.endswith("log_weight_norm"):  # at the initialisation scales hardly depend on z
            parameter.data += 0.5
    return vae


VAES: dict[str, Callable[[], VAE]] = {
    "linear": lambda: LinearVAE(slope=0.5),
    "points": lambda: MLPVAE(latent_dim=3, width=8, depth=1),
    "images": lambda: ConvVAE((2, 4, 8), latent_dim=3, channels=4),
    "dense": lambda: DenseVAE((1, 4, 4), latent_dim=3, width=8, depth=1, min_scale=0.1),
    "nvae": nvae,
}


@pytest.fixture(params=VAES)
def vae(request: pytest.FixtureRequest) -> VAE:
    return VAES[request.param]().double().eval().requires_grad_(False)


@pytest.fixture
def energy() -> QuadraticEnergy:
    return QuadraticEnergy(curvature=2.0, centre=0.3).double()


def noise(vae: VAE) -> Tensor:
    return prior_noise(vae, B, generator=generator_for(0)).double()


def joint_of(vae: LinearVAE) -> MultivariateNormal:
    """The exact p(z, x) where σ is fixed: cov(z, x) = [[I, Wᵀ], [W, W Wᵀ + σ² I]]."""
    weight, mean = vae.weight.detach(), torch.cat([torch.zeros(2), vae.bias.detach()])
    left = torch.cat([torch.eye(2), weight])
    right = torch.cat([weight.T, weight @ weight.T + vae.sigma**2 * torch.eye(3)])
    return MultivariateNormal(mean, torch.cat([left, right], dim=1))


# The potential


def test_potential_is_the_energy_minus_the_log_density_of_the_linear_model(
    linear_vae: LinearVAE,
) -> None:
    state, energy = 2 * torch.randn(B, 5), QuadraticEnergy(curvature=2.0, centre=0.3)
    expected = energy(state[:, 2:]) - joint_of(linear_vae).log_prob(state)
    torch.testing.assert_close(
        JointSpace().potential(linear_vae, energy)(state), expected, atol=1e-4, rtol=1e-4
    )


def test_potential_of_points_is_that_of_two_normals(energy: QuadraticEnergy) -> None:
    vae = MLPVAE(latent_dim=3, width=8, depth=1).double()
    state = 2 * torch.randn(B, 5, dtype=torch.float64)
    z, x = state[:, :3], state[:, 3:]
    log_px = Normal(*vae.likelihood(z)).log_prob(x).sum(1)
    expected = energy(x) - Normal(0.0, 1.0).log_prob(z).sum(1) - log_px
    torch.testing.assert_close(JointSpace().potential(vae, energy)(state), expected)


def test_potential_gradient_agrees_with_finite_differences(
    vae: VAE, energy: QuadraticEnergy
) -> None:
    state = vae.joint_state(noise(vae))
    potential = JointSpace().potential(vae, energy)
    _, grad = value_and_grad(potential, state)
    for _ in range(5):
        direction = torch.randn_like(state)
        step = 1e-6 * direction
        slope = (potential(state + step) - potential(state - step)) / 2e-6
        torch.testing.assert_close((grad * direction).sum(1), slope, atol=1e-4, rtol=1e-5)


def test_change_of_variables_adds_the_log_jacobian(vae: VAE, energy: QuadraticEnergy) -> None:
    # p(z, x) |∂(z, x)/∂ε| = N(ε; 0, I), also where T clamps pixels: E sees the same image.
    eps = noise(vae)
    joint = JointSpace().potential(vae, energy)(vae.joint_state(eps))
    difference = joint - NoiseSpace().potential(vae, energy)(eps)
    jacobian = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda row: vae.joint_state(row[None])[0], row)
            for row in eps
        ]
    )
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(difference, log_det + vae.noise_dim / 2 * LOG_2PI)


def test_change_of_variables_of_nvae_adds_the_logarithms_of_all_scales(
    energy: QuadraticEnergy,
) -> None:
    vae = nvae().double().eval()
    eps, sums = noise(vae), [math.log(2) * -64]  # x = (y + 1) / 2 is half as wide as y
    walk = vae.generator.forward

    def recording(batch_size: int, draw: Callable[..., Tensor]) -> Tensor:
        def drawn(group: int, features: Tensor, raw_prior: Tensor) -> Tensor:
            sums.append(DiagonalNormal.from_raw(raw_prior).scale.log().flatten(1).sum(1))
            return draw(group, features, raw_prior)

        raw = walk(batch_size, drawn)
        sums.append(DiagonalNormal.from_raw(raw).scale.log().flatten(1).sum(1))
        return raw

    vae.generator.forward = recording  # type: ignore[method-assign]
    state = vae.joint_state(eps)
    vae.generator.forward = walk  # type: ignore[method-assign]
    difference = JointSpace().potential(vae, energy)(state) - NoiseSpace().potential(vae, energy)(
        eps
    )
    torch.testing.assert_close(difference, sum(sums) + vae.noise_dim / 2 * LOG_2PI)


def test_potential_bounds_no_pixel_scale() -> None:
    # The chains of the published code see no scale below exp(−2) + 0.01; these do.
    vae = nvae().double().eval()
    vae.generator.head[1].bias.data[1] = -4.0  # log σ of the one colour
    z, x = torch.zeros(1, vae.latent_dim).double(), torch.full((1, 64), 0.5).double()
    eps = torch.cat([z, torch.zeros_like(x)], dim=1)
    scale = vae.generate(eps).likelihood.normal.scale
    assert scale.max() < 0.1
    curvature = torch.autograd.functional.hessian(
        lambda x: -vae.decode_joint(torch.cat([vae.joint_state(eps)[:, :-64], x], 1)).log_joint, x
    )
    torch.testing.assert_close(curvature.view(64, 64).diagonal(), (2 / scale).square().flatten())


# States and images


def test_state_has_the_layout_and_size_of_the_noise(vae: VAE) -> None:
    state = vae.joint_state(noise(vae))
    parts = vae.split(state)
    assert state.shape == (B, vae.noise_dim)
    assert [part.shape[1:] for part in parts] == list(vae.noise_shapes)


def test_start_stands_for_what_decode_makes_of_the_noise(vae: VAE) -> None:
    space, vae = JointSpace(), vae.float()
    start = space.start(vae, B, generator=generator_for(0))
    decoded = vae.decode(prior_noise(vae, B, generator=generator_for(0)))
    torch.testing.assert_close(space.image(vae, start), decoded.image)
    torch.testing.assert_close(space.image(vae, start, mean=True), decoded.mean)


def test_start_keeps_pixels_that_the_image_clamps() -> None:
    vae = ConvVAE((2, 4, 8), latent_dim=3, channels=4)
    start = JointSpace().start(vae, B, generator=generator_for(0))
    x = vae.split(start)[-1]
    assert x.min() < 0
    assert x.max() > 1
    assert torch.equal(JointSpace().image(vae, start), x.clamp(0, 1))


def test_energy_sees_images_in_the_unit_interval() -> None:
    vae, seen = ConvVAE((2, 4, 8), latent_dim=3, channels=4), []

    def energy(image: Tensor) -> Tensor:
        seen.append(image)
        return image.flatten(1).sum(1)

    state = JointSpace().start(vae, B, generator=generator_for(0))
    JointSpace().potential(vae, energy)(state)  # type: ignore[arg-type]
    assert 0 <= seen[0].min() <= seen[0].max() <= 1


def test_points_are_not_clamped(linear_vae: LinearVAE) -> None:
    state = 9 * torch.randn(B, 5)
    assert torch.equal(JointSpace().image(linear_vae, state), state[:, 2:])


# The law of long chains


@pytest.mark.parametrize("curvature", [0.0, 1.5])
def test_long_langevin_chains_have_the_moments_of_the_joint_density(
    linear_vae: LinearVAE, curvature: float
) -> None:
    chains, step_size, centre = 5_000, 0.15, 0.8
    space, energy = JointSpace(), QuadraticEnergy(curvature, centre)
    start = torch.full((chains, 5), 2.0)  # far from the model: the chains must forget it
    with torch.no_grad():
        potential = space.potential(linear_vae, energy)
    sampler = LangevinSampler(400, step_size=step_size)
    state, _ = sampler.run(potential, start, generator=generator_for(1))
    joint, pull = joint_of(linear_vae), torch.tensor([0.0, 0, 1, 1, 1]) * curvature
    precision = joint.precision_matrix + pull.diag()
    mean = torch.linalg.solve(precision, joint.precision_matrix @ joint.mean + pull * centre)
    # Langevin dynamics on N(m, Λ⁻¹) has the stationary covariance (Λ (1 − η Λ / 4))⁻¹.
    covariance = (precision @ (torch.eye(5) - step_size / 4 * precision)).inverse()
    variance = covariance.diagonal()
    squares = variance[:, None] * variance + covariance.square()
    assert ((state.mean(0) - mean).abs() < SIGMAS * (variance / chains).sqrt()).all()
    assert ((state.T.cov() - covariance).abs() < SIGMAS * (squares / chains).sqrt()).all()


# Stage 2


def test_stage_2_trains_and_samples_in_the_joint_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.chdir(tmp_path)
    options = ("--model.vae_checkpoint", trained().vae, "--model.space", "JointSpace")
    assert fit(tmp_path, "gaussians25_ebm", STAGE_2, *options) == 0
    checkpoint = tmp_path / "runs/gaussians25_ebm" / LAST
    result = run(capsys, "sample", "--ckpt_path", checkpoint, "--num_samples", 9)
    assert result.code == 0, result.err
    with np.load("samples/samples.npz") as arrays:
        assert arrays["arr_0"].shape == (9, 2)
        assert np.isfinite(arrays["arr_0"]).all()


# VAEs without a density


@pytest.mark.parametrize(
    ("likelihood", "image_shape"), [("bernoulli", (1, 8, 8)), ("logistic_mixture", (3, 8, 8))]
)
def test_discrete_pixels_are_refused(likelihood: str, image_shape: tuple[int, ...]) -> None:
    vae = nvae(likelihood=likelihood, image_shape=image_shape).eval()
    with pytest.raises(UsageError, match="JointSpace needs a Gaussian"):
        JointSpace().start(vae, 1, generator=generator_for(0))
    with pytest.raises(UsageError, match="JointSpace needs a Gaussian"):
        JointSpace().image(vae, torch.zeros(1, vae.noise_dim))


def test_density_of_pixels_is_that_of_the_image_itself() -> None:
    pixels = GaussianPixels.from_raw(torch.randn(2, 2, 3, 3))
    x = torch.randn(2, 1, 3, 3)
    # x = (y + 1) / 2: p(x) = 2 p(y).
    expected = pixels.log_prob(x) + math.log(2)
    torch.testing.assert_close(density_of(pixels).log_prob(x), expected)
    assert torch.equal(density_of(pixels).mean, pixels.mean)


@pytest.mark.parametrize("kind", [BernoulliPixels, LogisticMixturePixels])
def test_discrete_pixels_have_no_density(kind: type) -> None:
    raw = torch.randn(1, 10, 2, 2)
    likelihood = kind.from_raw(raw, 8) if kind is LogisticMixturePixels else kind.from_raw(raw)
    with pytest.raises(UsageError, match=kind.__name__):
        density_of(likelihood)
