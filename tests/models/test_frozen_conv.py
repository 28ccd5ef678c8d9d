"""Convolutions with constant weights."""

from itertools import product

import pytest
import torch
from torch import nn

from tests.models.test_fold import nvae
from vaebm.models.frozen_conv import FrozenConv2d


def pair(**options: int) -> tuple[nn.Conv2d, FrozenConv2d]:
    torch.manual_seed(0)
    convs = nn.Conv2d(4, 8, 3, **options), FrozenConv2d(4, 8, 3, **options)  # type: ignore[arg-type]
    convs[1].load_state_dict(convs[0].state_dict())
    for conv in convs:
        conv.double().requires_grad_(False)
    return convs


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), list(product((1, 2, 3), (0, 1), (1, 2), (1, 4)))
)
@pytest.mark.parametrize("side", [9, 10])
def test_values_and_gradients_are_those_of_torch(
    stride: int, padding: int, dilation: int, groups: int, side: int
) -> None:
    convs = pair(stride=stride, padding=padding, dilation=dilation, groups=groups)
    image = torch.randn(2, 4, side, side + 1, dtype=torch.float64, requires_grad=True)
    outputs = [conv(image) for conv in convs]
    weight = torch.randn_like(outputs[0])
    grads = [torch.autograd.grad(output, image, weight)[0] for output in outputs]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads)


def test_second_derivatives_exist() -> None:
    _, conv = pair(padding=1)
    image = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: conv(x).pow(3), image)


def test_autocast_gives_what_torch_gives() -> None:
    plain, conv = pair(padding=1)
    plain.float()
    conv.to(torch.bfloat16)
    image = torch.randn(2, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = plain(image), conv(image)
    grads = [torch.autograd.grad(output.sum(), image)[0] for output in outputs]
    assert outputs[1].dtype == torch.bfloat16
    assert grads[1].dtype == torch.float32
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads)


def test_a_generator_of_them_remembers_less_than_half() -> None:
    vae = nvae("res_mbconv").requires_grad_(False)
    remembered = []
    for model in (vae, vae.for_chains()):
        tensors: dict[int, int] = {}

        def pack(tensor: torch.Tensor, tensors: dict[int, int] = tensors) -> torch.Tensor:
            storage = tensor.untyped_storage()
            tensors[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = sum(p.nbytes for p in model.parameters())
        eps = torch.randn(64, model.noise_dim, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            image = model.decode(eps).image
        remembered.append(sum(tensors.values()) - weights)
        del image
    assert remembered[1] < 0.5 * remembered[0]
