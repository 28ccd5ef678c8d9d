"""Which weights chains see."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.models.test_fold import nvae
from vaebm.chain_networks import ChainNetworks
from vaebm.chain_potential import ChainPotential
from vaebm.models import Energy, ResidualEnergy
from vaebm.samplers import value_and_grad
from vaebm.spaces import NoiseSpace


def small_energy() -> ResidualEnergy:
    torch.manual_seed(1)
    return ResidualEnergy(3, 8, [1, 1], [0])


def test_the_decoder_is_made_once_and_anew_where_weights_change() -> None:
    vae, networks = nvae("res_mbconv"), ChainNetworks()
    first = networks.decoder_of(vae)
    assert networks.decoder_of(vae) is first
    eps = torch.randn(2, vae.noise_dim)
    vae.load_state_dict({name: 1.5 * value for name, value in vae.state_dict().items()})
    second = networks.decoder_of(vae)
    assert second is not first
    torch.testing.assert_close(second.decode(eps).mean, vae.decode(eps).mean)


def test_both_follow_to_another_type() -> None:
    vae, energy, networks = nvae("res_mbconv"), small_energy(), ChainNetworks()
    for dtype in (torch.float32, torch.float64):
        vae.to(dtype)
        energy.to(dtype)
        image = networks.decoder_of(vae).decode(torch.randn(2, vae.noise_dim, dtype=dtype)).image
        assert networks.energy_of(energy)(image).dtype == dtype


def test_the_energy_takes_new_weights_at_the_same_place() -> None:
    energy, networks = small_energy(), ChainNetworks()
    image = torch.rand(2, 3, 8, 8)
    first = networks.energy_of(energy)
    places = [parameter.data_ptr() for parameter in first.parameters()]
    optimizer = torch.optim.SGD(energy.parameters(), lr=0.1)
    for _ in range(3):
        energy(image).sum().backward()
        optimizer.step()
        twin = networks.energy_of(energy)
        assert twin is first
        assert [parameter.data_ptr() for parameter in twin.parameters()] == places
        torch.testing.assert_close(twin(image), energy(image))
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert energy.training
    assert all(parameter.requires_grad for parameter in energy.parameters())


class SpectralEnergy(Energy):
    """One whose weights depend on the mode: torch's spectral norm iterates in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = parametrizations.spectral_norm(nn.Linear(2, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.linear(image).squeeze(1)
        return value

    def penalty(self) -> torch.Tensor:
        return torch.zeros(())


def test_chains_leave_no_trace_in_an_energy_of_any_parametrization() -> None:
    energy, networks = SpectralEnergy(), ChainNetworks()
    before = deepcopy(energy.state_dict())
    points = torch.randn(3, 2)
    twin = networks.energy_of(energy)
    torch.testing.assert_close(twin(points), energy.eval()(points))
    assert all(torch.equal(value, before[name]) for name, value in energy.state_dict().items())


def test_autocast_keeps_convolutions_in_its_type_and_values_as_they_were() -> None:
    vae, energy, networks = nvae("res_bnswish"), small_energy(), ChainNetworks()
    eps = 0.5 * torch.randn(4, vae.noise_dim)
    with torch.autocast("cpu", torch.bfloat16):
        decoder, twin = networks.decoder_of(vae), networks.energy_of(energy)
        live = NoiseSpace().potential(vae, energy.eval())(eps)
        fast = NoiseSpace().potential(decoder, twin)(eps)
    kinds = {m.weight.dtype for m in decoder.modules() if isinstance(m, nn.Conv2d)}
    assert kinds == {torch.bfloat16}
    torch.testing.assert_close(fast, live, rtol=0.01, atol=0.05)
    assert next(networks.energy_of(energy).parameters()).dtype == torch.float32


def test_what_was_made_in_inference_mode_can_be_differentiated() -> None:
    vae, energy, potential = nvae("res_mbconv"), small_energy(), ChainPotential()
    with torch.inference_mode():
        u = potential.of(NoiseSpace(), vae, energy)
    _, grad = value_and_grad(u, torch.randn(2, vae.noise_dim))
    assert grad.isfinite().all()


def test_the_potential_is_kept_until_a_part_of_it_is_another() -> None:
    vae, energy, potential = nvae("res_mbconv"), small_energy(), ChainPotential()
    space = NoiseSpace()
    first = potential.of(space, vae, energy)
    assert potential.of(space, vae, energy) is first
    assert potential.of(NoiseSpace(), vae, energy) is not first
    assert deepcopy(potential).of(space, vae, energy) is not first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_the_networks(dtype: torch.dtype) -> None:
    vae, energy = nvae("res_mbconv").to(dtype), small_energy().to(dtype)
    eps = torch.randn(3, vae.noise_dim, dtype=dtype)
    fast = value_and_grad(ChainPotential().of(NoiseSpace(), vae, energy), eps)
    live = value_and_grad(NoiseSpace().potential(vae, energy.eval()), eps)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(fast, live, rtol=tolerance, atol=tolerance)
