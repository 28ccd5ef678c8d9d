"""Initialisation by data: what each convolution gives afterwards, and what stays."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.training import same_weights
from vaebm.models import ResidualEnergy
from vaebm.models.data_init import data_dependent_init, log_weight_norm_of
from vaebm.models.layers import wn_conv


class Backwards(nn.Module):
    """Three convolutions, called from the last one to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = wn_conv(6, 2, 3)
        self.middle = wn_conv(5, 6)
        self.first = wn_conv(3, 5, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.middle(self.first(image).relu()).relu())


def plain() -> nn.Module:
    return nn.Sequential(wn_conv(3, 5, 3), nn.SiLU(), wn_conv(5, 4, 3, stride=2), nn.SiLU())


def residual() -> nn.Module:
    return ResidualEnergy(3, channels=4, multipliers=(1, 2, 2), halvings=(0, 2))


MAKERS = [plain, Backwards, residual]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(32, 3, 8, 8)


def outputs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """Every weight-normalised convolution with its output."""
    found: list[tuple[nn.Conv2d, Tensor]] = []
    layers = [layer for layer in network.modules() if log_weight_norm_of(layer) is not None]
    hooks = [
        layer.register_forward_hook(lambda layer, _, y: found.append((layer, y)))
        for layer in layers
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(layers)
    return found


@pytest.mark.parametrize("make", MAKERS)
def test_outputs_have_standard_deviation_one_fifth(
    make: Callable[[], nn.Module], images: Tensor
) -> None:
    network = make()
    data_dependent_init(network, images)
    for _, output in outputs(network, images):
        deviation = output.movedim(1, 0).flatten(1).std(1, correction=1)
        torch.testing.assert_close(deviation, torch.full_like(deviation, 0.2), rtol=1e-3, atol=0)


@pytest.mark.parametrize("make", MAKERS)
def test_outputs_of_layers_with_bias_have_mean_zero(
    make: Callable[[], nn.Module], images: Tensor
) -> None:
    network = make()
    data_dependent_init(network, images)
    means = [y.mean((0, 2, 3)) for layer, y in outputs(network, images) if layer.bias is not None]
    for mean in means:
        torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)


def test_length_and_bias_are_those_of_the_unit_weights(images: Tensor) -> None:
    layer = wn_conv(3, 5).double()
    v, x = layer.parametrizations.weight.original.detach(), images.double()
    data_dependent_init(layer, x)
    unit = v / (v.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-5)
    y = torch.einsum("oi,bihw->obhw", unit[:, :, 0, 0], x).flatten(1)
    scale = 5 * y.var(1, correction=1).sqrt() + 1e-5
    length = layer.parametrizations.weight[0].log_weight_norm
    torch.testing.assert_close(length.flatten(), -scale.log())
    torch.testing.assert_close(layer.bias, -y.mean(1) / scale)


def test_layer_without_bias_keeps_its_mean(images: Tensor) -> None:
    layer = wn_conv(3, 5, bias=False)
    before = layer(images)
    data_dependent_init(layer, images)
    after = layer(images)
    # It is only scaled: mean over standard deviation stays.
    ratios = [y.mean((0, 2, 3)) / y.std((0, 2, 3)) for y in (before, after)]
    assert ratios[0].abs().max() > 0.1
    torch.testing.assert_close(*ratios, rtol=1e-3, atol=1e-3)


def test_directions_of_the_weights_stay(images: Tensor) -> None:
    network = residual()
    before = {n: p.clone() for n, p in network.named_parameters() if n.endswith("original")}
    data_dependent_init(network, images)
    assert same_weights(before, {n: dict(network.named_parameters())[n] for n in before})


def test_ordinary_layers_stay(images: Tensor) -> None:
    ordinary = nn.ModuleList([nn.Conv2d(3, 5, 3), nn.Linear(5 * 36, 2)])
    before = {name: value.clone() for name, value in ordinary.state_dict().items()}
    network = nn.Sequential(ordinary[0], wn_conv(5, 5), nn.Flatten(), ordinary[1])
    data_dependent_init(network, images)
    assert same_weights(before, ordinary.state_dict())


def test_lengths_and_biases_from_before_do_not_matter(images: Tensor) -> None:
    network = residual()
    data_dependent_init(network, images)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for layer in network.modules():
            norm = log_weight_norm_of(layer)
            for parameter in [] if norm is None else [norm.log_weight_norm, layer.bias]:
                if parameter is not None:
                    parameter += 1
    data_dependent_init(network, images)
    assert same_weights(first, network.state_dict())


def test_other_images_give_other_lengths(images: Tensor) -> None:
    network = plain()
    data_dependent_init(network, images)
    first = [p.clone() for p in network.parameters() if p.shape[1:] == (1, 1, 1)]
    data_dependent_init(network, images**3)
    second = [p for p in network.parameters() if p.shape[1:] == (1, 1, 1)]
    assert all((a != b).all() for a, b in zip(first, second, strict=True))


def test_later_calls_of_the_network_change_nothing(images: Tensor) -> None:
    network = residual()
    data_dependent_init(network, images)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(images**3)
    assert same_weights(before, network.state_dict())


def test_gradients_flow_afterwards(images: Tensor) -> None:
    network = residual()
    data_dependent_init(network, images)
    network(images).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
