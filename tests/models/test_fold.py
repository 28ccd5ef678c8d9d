"""The generator of chains against the live one."""

import pytest
import torch
from torch import Tensor, nn

from vaebm.models import NVAE
from vaebm.models.cells import ARCHITECTURES


def nvae(architecture: str, *, squeeze_excitation: bool = True) -> NVAE:
    """A small NVAE on two scales whose batch norms do something, in evaluation mode."""
    torch.manual_seed(0)
    vae = NVAE(
        (3, 16, 16),
        encoder_channels=8,
        decoder_channels=8,
        groups_per_scale=[1, 2],
        latent_channels=3,
        encoder_cells=1,
        decoder_cells=1,
        architecture=architecture,
        squeeze_excitation=squeeze_excitation,
    )
    for module in vae.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.normal_()
            module.running_var.uniform_(0.5, 2)
    return vae.eval().requires_grad_(False)


def outputs(vae: NVAE, eps: Tensor) -> list[Tensor]:
    """Decoder mean, joint density and the gradient of their sum for the latents' noise."""
    state = eps.clone().requires_grad_()
    decoded = vae.decode(state)
    pull = torch.linspace(-1, 1, decoded.mean.numel(), dtype=eps.dtype).view_as(decoded.mean)
    total = (decoded.mean * pull).sum() + decoded.log_joint.sum()
    (grad,) = torch.autograd.grad(total, state)
    return [decoded.mean.detach(), decoded.log_joint.detach(), grad[:, : vae.latent_dim]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("squeeze_excitation", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_values_and_gradients_are_those_of_the_live_generator(
    architecture: str, squeeze_excitation: bool, dtype: torch.dtype, tolerance: float
) -> None:
    vae = nvae(architecture, squeeze_excitation=squeeze_excitation).to(dtype)
    eps = torch.randn(3, vae.noise_dim, dtype=dtype)
    for live, fast in zip(outputs(vae, eps), outputs(vae.for_chains(), eps), strict=True):
        assert (live - fast).norm() <= tolerance * live.norm()


def test_no_batch_norm_is_left_in_mobile_cells_and_no_encoder() -> None:
    vae = nvae("res_mbconv")
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    fast = vae.for_chains()
    names = [name for name, _ in fast.named_parameters()]
    assert names
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any("encoder" in name or "parametrizations" in name for name in names)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_pixels_are_repeated_after_the_expansion() -> None:
    shapes = []
    fast = nvae("res_mbconv").for_chains()
    for cell in fast.generator.postprocess:
        cell.ops[0].register_forward_hook(lambda *seen: shapes.append(seen[2].shape[-1]))
    fast.decode(torch.randn(1, fast.noise_dim))
    assert shapes[0] == 8  # half of the image's side
