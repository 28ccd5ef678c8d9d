"""The residual energy, against its equations written out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaebm.errors import UsageError
from vaebm.models import ResidualEnergy
from vaebm.models.energy import EnergyBlock, scaled_silu


@pytest.fixture
def energy() -> ResidualEnergy:
    """A block that halves, one that widens and one that does neither."""
    return ResidualEnergy(2, channels=3, multipliers=(1, 2, 2), halvings=(0,))


def silence(module: nn.Module) -> None:
    """Make all effective weights of convolutions 0: their outputs are their biases."""
    for name, parameter in module.named_parameters():
        if name.endswith("log_weight_norm"):
            nn.init.constant_(parameter, -torch.inf)


def activation(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp()) / 1.1


def conv(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """A convolution with W = exp(s) V / (‖V‖ + 1e-5) that keeps the size of the image."""
    v = weights[f"{name}.parametrizations.weight.original"]
    length = weights[f"{name}.parametrizations.weight.0.log_weight_norm"].exp()
    norm = v.square().sum((1, 2, 3), keepdim=True).sqrt()
    bias = weights.get(f"{name}.bias")
    return F.conv2d(x, length * v / (norm + 1e-5), bias, padding=v.shape[-1] // 2)


def means_of_squares(x: Tensor) -> Tensor:
    """The mean of every 2×2 pixels."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_activation_is_x_sigmoid_x_over_one_point_one() -> None:
    x = torch.linspace(-8, 8, 33, dtype=torch.float64)
    torch.testing.assert_close(scaled_silu(x), activation(x))


def test_energy_equals_its_equations(energy: ResidualEnergy) -> None:
    energy.double()
    w = dict(energy.named_parameters())
    image = torch.rand(4, 2, 6, 8, dtype=torch.float64)
    h = activation(conv(image, w, "conv1"))
    b = [f"blocks.{i}" for i in range(3)]
    inner = conv(activation(conv(h, w, f"{b[0]}.conv1")), w, f"{b[0]}.conv2")
    h = activation(means_of_squares(inner + conv(h, w, f"{b[0]}.skip")))
    inner = conv(activation(conv(h, w, f"{b[1]}.conv1")), w, f"{b[1]}.conv2")
    h = activation(inner + conv(h, w, f"{b[1]}.skip"))
    inner = conv(activation(conv(h, w, f"{b[2]}.conv1")), w, f"{b[2]}.conv2")
    h = activation(inner + h)
    sums = torch.stack([h[:, c].flatten(1).sum(1) for c in range(6)], 1)
    expected = sums @ w["linear.weight"][0] + w["linear.bias"]
    torch.testing.assert_close(energy(image), expected, rtol=1e-9, atol=1e-9)


def test_default_is_the_network_for_cifar10() -> None:
    with torch.device("meta"):
        energy = ResidualEnergy()
    assert energy(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2,)
    assert energy.conv1.weight.shape == (128, 3, 3, 3)
    number = sum(parameter.numel() for parameter in energy.parameters())
    assert number == pytest.approx(5.138e6, rel=1e-4)


@pytest.mark.parametrize("sides", [(2, 2), (4, 10), (8, 8)])
def test_energy_gives_one_number_an_image(energy: ResidualEnergy, sides: tuple[int, int]) -> None:
    assert energy(torch.rand(3, 2, *sides)).shape == (3,)


def test_energy_of_an_image_does_not_depend_on_the_others(energy: ResidualEnergy) -> None:
    images = torch.rand(3, 2, 8, 8)
    torch.testing.assert_close(energy(images)[1:2], energy(images[1:2]))


def test_energy_gradient_reaches_all_parameters(energy: ResidualEnergy) -> None:
    energy(torch.rand(3, 2, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in energy.parameters())


def test_energy_is_a_sum_and_no_mean_over_positions(energy: ResidualEnergy) -> None:
    silence(energy)  # the features of all positions are alike
    small, large = (energy(torch.rand(1, 2, side, side)) for side in (4, 8))
    bias = energy.linear.bias
    assert (small - bias).abs() > 0.01
    torch.testing.assert_close(large - bias, 4 * (small - bias))


@pytest.mark.parametrize(("halve", "expected"), [(True, 0.0), (False, None)])
def test_halving_block_averages_before_its_activation(halve: bool, expected: float | None) -> None:
    block = EnergyBlock(1, 1, halve=halve)
    silence(block)
    nn.init.zeros_(block.conv2.bias)
    if halve:
        nn.init.zeros_(block.skip.parametrizations.weight[0].log_weight_norm)
    squares = torch.tensor([[[[3.0, -3.0], [1.0, -1.0]]]])  # of mean 0; their activations' is 0.7
    assert float(block(squares).mean().detach()) == pytest.approx(
        float(activation(squares).mean()) if expected is None else expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("channels_out", "halve", "has_convolution"),
    [(3, False, False), (3, True, True), (5, False, True), (5, True, True)],
)
def test_skip_is_a_convolution_where_width_or_size_change(
    channels_out: int, halve: bool, has_convolution: bool
) -> None:
    skip = EnergyBlock(3, channels_out, halve=halve).skip
    assert isinstance(skip, nn.Conv2d) == has_convolution
    assert sum(p.numel() for p in skip.parameters()) == has_convolution * channels_out * (3 + 1)


@pytest.mark.parametrize("sides", [(6, 8), (8, 6), (4, 2), (9, 8)])
def test_sides_that_cannot_be_halved_are_refused(sides: tuple[int, int]) -> None:
    energy = ResidualEnergy(1, channels=2, multipliers=(1, 1), halvings=(0, 1))
    with pytest.raises(ValueError, match="no multiples of 4"):
        energy(torch.rand(1, 1, *sides))


@pytest.mark.parametrize("options", [
    {"image_channels": 0}, {"channels": 0}, {"channels": -1}, {"multipliers": ()},
    {"multipliers": (1, 0)},
])  # fmt: skip
def test_empty_network_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="channels and multipliers ≥ 1"):
        ResidualEnergy(**{"channels": 2, "multipliers": (1,), "halvings": (), **options})


@pytest.mark.parametrize("halvings", [(2,), (-1,), (0, 5)])
def test_halving_of_a_block_that_is_not_there_is_refused(halvings: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="there are blocks 0 to 1"):
        ResidualEnergy(1, channels=2, multipliers=(1, 1), halvings=halvings)


def test_new_energy_needs_data(energy: ResidualEnergy) -> None:
    assert energy.needs_data


def test_initialised_energy_needs_no_data(energy: ResidualEnergy) -> None:
    energy.initialise(torch.rand(8, 2, 4, 4))
    assert not energy.needs_data


def test_initialisation_flattens_the_first_landscape(energy: ResidualEnergy) -> None:
    images = torch.rand(64, 2, 8, 8)
    energy.initialise(images)
    deviations: list[Tensor] = []
    for layer in energy.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, y: deviations.append(y.std((0, 2, 3))))
    energy(images)
    assert len(deviations) == 9
    found = torch.cat(deviations)
    torch.testing.assert_close(found, torch.full_like(found, 0.2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("initialised", [True, False])
def test_loaded_energy_needs_data_if_the_stored_one_did(initialised: bool) -> None:
    stored, loaded = (ResidualEnergy(1, 2, (1,), ()) for _ in range(2))
    if initialised:
        stored.initialise(torch.rand(8, 1, 4, 4))
    loaded.load_state_dict(stored.state_dict())
    assert loaded.needs_data != initialised


def test_penalty_is_the_sum_of_all_convolutions_spectral_norms(energy: ResidualEnergy) -> None:
    weights = [m.weight.flatten(1) for m in energy.modules() if isinstance(m, nn.Conv2d)]
    exact = torch.stack([torch.linalg.matrix_norm(weight, ord=2) for weight in weights]).sum()
    for _ in range(50):  # the first call alone is within a few 1e-3 where norms lie close
        penalty = energy.penalty()
    torch.testing.assert_close(penalty, exact, rtol=1e-3, atol=0)


def test_penalty_leaves_the_linear_layer_alone(energy: ResidualEnergy) -> None:
    energy.penalty().backward()
    assert [p.grad for p in energy.linear.parameters()] == [None, None]


def test_penalty_gradient_reaches_all_convolutions(energy: ResidualEnergy) -> None:
    energy.penalty().backward()
    assert all(p.grad is not None and p.grad.any() for p in energy.parameters() if p.ndim == 4)
