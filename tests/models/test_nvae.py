"""NVAE: sizes, shapes, options and what must be the same with and without them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from vaebm.errors import UsageError
from vaebm.models import NVAE
from vaebm.models.cells import ARCHITECTURES
from vaebm.models.pixels import quantise
from vaebm.models.tower import frozen_statistics

SIZES: dict[str, Any] = {
    "image_shape": (3, 16, 16),
    "encoder_channels": 8,
    "decoder_channels": 8,
    "groups_per_scale": (1, 2),
    "latent_channels": 2,
    "encoder_cells": 1,
    "decoder_cells": 1,
}
LATENTS = 2 * 4 * 4 + 2 * 2 * 8 * 8
NOISE = LATENTS + 3 * 16 * 16

PUBLISHED = {  # total and generator parameters in millions, latents, shape of the constant
    "cifar10": ({"num_flows": 1}, 130.74, 51.72, 153_600, (256, 16, 16)),
    "celeba64": (
        {
            "image_shape": (3, 64, 64),
            "encoder_channels": 48,
            "decoder_channels": 48,
            "groups_per_scale": (5, 5, 5),
            "num_flows": 1,
        },
        65.01,
        24.08,
        134_400,
        (384, 8, 8),
    ),
    "celebahq256": (
        {
            "image_shape": (3, 256, 256),
            "encoder_channels": 32,
            "decoder_channels": 32,
            "groups_per_scale": (4, 4, 4, 4, 4),
            "num_flows": 2,
        },
        365.37,
        132.29,
        1_745_920,
        (1024, 8, 8),
    ),
}


def nvae(**changes: Any) -> NVAE:
    """A small model with random batch-norm statistics, in evaluation mode."""
    vae = NVAE(**{**SIZES, **changes})
    for name, buffer in vae.named_buffers():
        if "running" in name:
            buffer.copy_(buffer + 0.1 * torch.rand_like(buffer))
    return vae.eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randint(256, (3, 3, 16, 16)).float() / 255


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_sizes(name: str) -> None:
    options, total, generator, latents, constant = PUBLISHED[name]
    with torch.device("meta"):
        vae = NVAE(**options)
    counts = [sum(p.numel() for p in m.parameters()) for m in (vae, vae.generator)]
    assert [round(count / 1e6, 2) for count in counts] == [total, generator]
    assert (vae.latent_dim, vae.generator.constant.shape) == (latents, constant)


def test_noise_is_ordered_from_the_lowest_resolution_and_pixels_come_last() -> None:
    shapes = [(2, 4, 4), (2, 8, 8), (2, 8, 8), (3, 16, 16)]
    vae = nvae()
    assert list(vae.noise_shapes) == shapes
    assert (vae.latent_dim, vae.noise_dim) == (LATENTS, NOISE)


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic_mixture"])
def test_decoded_images_are_in_the_unit_interval(likelihood: str) -> None:
    decoded = nvae(likelihood=likelihood).decode(3 * torch.randn(4, NOISE))
    assert decoded.image.shape == decoded.mean.shape == (4, 3, 16, 16)
    assert 0 <= decoded.image.min() <= decoded.image.max() <= 1
    assert decoded.log_joint.shape == (4,)


def test_bernoulli_images_are_binary() -> None:
    vae = nvae(image_shape=(1, 16, 16), likelihood="bernoulli", border=2)
    image = vae.decode(torch.randn(4, vae.noise_dim)).image
    assert set(image.unique().tolist()) == {0.0, 1.0}


def test_border_is_left_out_of_the_bound(image: Tensor) -> None:
    vae = nvae(border=3)
    changed = image.clone()
    changed[..., :3] = 0.5
    noise = torch.zeros(3, LATENTS)
    features = vae.encoder(image)
    vae.encoder.forward = lambda _: features  # the same latents for both
    assert torch.equal(vae.elbo(image, noise=noise).log_px, vae.elbo(changed, noise=noise).log_px)
    assert vae.data_dim == 3 * 10 * 10


def test_decoded_image_of_one_row_does_not_depend_on_the_others() -> None:
    vae, eps = nvae(), torch.randn(3, NOISE)
    torch.testing.assert_close(vae.decode(eps).image[1:2], vae.decode(eps[1:2]).image)


def test_gradient_reaches_every_noise_coordinate() -> None:
    vae, eps = nvae(), (0.1 * torch.randn(2, NOISE)).requires_grad_()
    (grad,) = torch.autograd.grad(vae.decode(eps).image.square().sum(), eps)
    assert (grad != 0).float().mean() > 0.99


def test_bound_gives_a_divergence_for_each_group(image: Tensor) -> None:
    terms = nvae().elbo(image)
    assert (terms.log_px.shape, terms.kl.shape) == ((3,), (3, 3))
    assert (terms.kl > 0).all()


def test_bound_draws_noise_afresh(image: Tensor) -> None:
    vae = nvae()
    assert not torch.equal(vae.elbo(image).log_px, vae.elbo(image).log_px)


@pytest.mark.parametrize("shape", [(3, LATENTS - 1), (3, NOISE), (LATENTS,)])
def test_posterior_noise_of_another_shape_is_refused(image: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"\(B, {LATENTS}\) is due"):
        nvae().elbo(image, noise=torch.zeros(shape))


def test_divergence_is_the_mean_log_ratio(image: Tensor) -> None:
    vae, number = nvae(), 400
    repeated = image[:1].expand(number, -1, -1, -1)
    noise = torch.randn(number, LATENTS)
    with torch.no_grad():
        terms, weight = vae.elbo(repeated, noise=noise), vae.log_weight(repeated, noise=noise)
    # E_q[log p − log q] = −Σ E[KL_g]; 5 standard errors.
    difference = weight - terms.log_px + terms.kl.sum(1)
    assert abs(difference.mean()) < 5 * difference.std() / number**0.5


def test_recomputing_changes_neither_gradients_nor_statistics(image: Tensor) -> None:
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        vae = NVAE(**SIZES, recompute=recompute).double()
        noise = torch.randn(3, LATENTS, dtype=torch.float64)
        vae.elbo(image.double(), noise=noise).elbo.sum().backward()
        grads = {n: p.grad for n, p in vae.named_parameters() if p.grad is not None}
        results.append({**grads, **dict(vae.named_buffers())})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-9, atol=1e-12)


def test_recomputing_goes_with_synchronised_batch_norm(image: Tensor) -> None:
    vae = torch.nn.SyncBatchNorm.convert_sync_batchnorm(NVAE(**SIZES, recompute=True))
    norms = [m for m in vae.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    with frozen_statistics(vae):  # SyncBatchNorm asks for a counter; it needs a GPU to run
        for norm in norms:
            norm.num_batches_tracked.add_(1)
        assert {norm.momentum for norm in norms} == {0.0}
    assert {norm.num_batches_tracked.item() for norm in norms} == {0}
    assert {norm.momentum for norm in norms} == {0.05}


def test_recomputing_works_in_a_chain() -> None:
    eps, grads = torch.randn(2, NOISE), []
    for recompute in (False, True):
        torch.manual_seed(0)
        vae = nvae(recompute=recompute).requires_grad_(False)
        state = eps.clone().requires_grad_()
        with parametrize.cached():
            grads.append(torch.autograd.grad(vae.decode(state).image.sum(), state)[0])
    torch.testing.assert_close(*grads)


def test_recomputing_stores_less(image: Tensor) -> None:
    stored = []
    for recompute in (False, True):
        vae, size = NVAE(**SIZES, recompute=recompute), 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            vae.elbo(image)
        stored.append(size)
    assert stored[1] < 0.5 * stored[0]


def test_penalty_is_the_spectral_norms_and_the_largest_scales() -> None:
    vae = nvae(num_flows=1).double()
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    convs = [m for m in vae.modules() if isinstance(m, torch.nn.Conv2d)]
    exact = sum(torch.linalg.matrix_norm(c.weight.flatten(1), ord=2) for c in convs)
    norms = [m for m in vae.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    exact = exact + sum(norm.weight.abs().max() for norm in norms)
    for _ in range(50):
        penalty = vae.penalty()
    torch.testing.assert_close(penalty, exact, rtol=1e-4, atol=0)


def test_penalty_gradient_reaches_all_convolutions_and_batch_norms() -> None:
    vae = nvae(num_flows=1)
    vae.penalty().backward()
    reached = {name for name, p in vae.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {name for name, _ in vae.named_parameters() if "log_weight_norm" in name}
    expected |= {f"{name}.weight" for name, m in vae.named_modules() if type(m) is torch.nn.Conv2d}
    expected |= {
        f"{name}.weight" for name, m in vae.named_modules() if type(m) is torch.nn.BatchNorm2d
    }
    assert expected <= reached


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_penalty_of_every_architecture_is_finite_and_positive(architecture: str) -> None:
    vae = nvae(architecture=architecture, encoder_channels=16, decoder_channels=16)
    assert 0 < vae.penalty() < float("inf")


@pytest.mark.parametrize("options", [{}, {"num_flows": 1}, {"groups_per_scale": [1]}])
def test_training_reaches_all_parameters(image: Tensor, options: dict[str, Any]) -> None:
    vae = NVAE(**{**SIZES, **options})
    (-vae.elbo(image).elbo.mean()).backward()
    missing = {n for n, p in vae.named_parameters() if p.requires_grad and p.grad is None}
    assert not missing


def test_bf16_keeps_densities_in_float32(image: Tensor) -> None:
    vae, noise = nvae(), torch.randn(3, LATENTS)
    exact = vae.elbo(image, noise=noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = vae.elbo(image, noise=noise)
        decoded = vae.decode(torch.randn(3, NOISE))
    assert {terms.log_px.dtype, terms.kl.dtype, decoded.image.dtype} == {torch.float32}
    torch.testing.assert_close(terms.log_px, exact.log_px, rtol=0.05, atol=1.0)


def test_convolution_weights_are_channels_last() -> None:
    weight = nvae().encoder.stem.parametrizations.weight.original
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (3, 16, 8)}, "side, side"),
        ({"image_shape": (3, 18, 18)}, "cannot be halved"),
        ({"groups_per_scale": []}, "groups_per_scale"),
        ({"groups_per_scale": [2, 0]}, "groups_per_scale"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"num_flows": -1}, "num_flows is -1"),
        ({"num_x_bits": 9}, "num_x_bits is 9"),
        ({"border": 8}, "border is 8"),
        ({"likelihood": "logistic_mixture", "num_mixtures": 0}, "num_mixtures is 0"),
        ({"likelihood": "gausian"}, "did you mean gaussian"),
        ({"architecture": "resnet"}, "architectures of NVAE"),
        ({"likelihood": "logistic_mixture", "image_shape": (1, 16, 16)}, "3 colours"),
        ({"groups_per_scale": [1], "encoder_channels": 4}, "one latent group"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NVAE(**{**SIZES, **changes})


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantised_images_have_the_levels_of_their_bits(bits: int) -> None:
    image = torch.arange(256.0).view(1, 1, 16, 16) / 255
    quantised = quantise(image, bits)
    expected = (torch.arange(256) // 2 ** (8 - bits)).view(1, 1, 16, 16) / (2**bits - 1)
    assert torch.equal(quantised, expected)
    assert torch.equal(quantise(quantised, bits), quantised)
