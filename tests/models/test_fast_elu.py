"""The exponential linear unit of chains."""

import torch
from torch import nn

from tests.models.test_fold import nvae
from vaebm.models.fast_elu import FastELU
from vaebm.models.fold import folded

GRID = torch.linspace(-30, 30, 2001)


def test_values_and_slopes_are_those_of_torch() -> None:
    outputs, slopes = [], []
    for layer in (nn.ELU(), FastELU()):
        features = GRID.clone().requires_grad_()
        outputs.append(layer(features))
        slopes.append(torch.autograd.grad(outputs[-1].sum(), features)[0])
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1.2e-7)
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1.2e-7)


def test_derivatives_are_right_up_to_the_second() -> None:
    features = (GRID[::50] / 10 + 0.01).double().requires_grad_()
    assert torch.autograd.gradcheck(FastELU(), (features,))
    assert torch.autograd.gradgradcheck(FastELU(), (features,))


def test_other_alphas_are_torch_s_own() -> None:
    assert torch.equal(FastELU(0.5)(GRID), nn.ELU(0.5)(GRID))


def test_half_precision_is_torch_s_own() -> None:
    features = (GRID / 1000).bfloat16()
    assert torch.equal(FastELU()(features), nn.ELU()(features))


def test_infinite_features_stay_and_nan_stays() -> None:
    features = torch.tensor([-torch.inf, torch.inf, torch.nan])
    output = FastELU()(features)
    assert output[:2].tolist() == [-1, torch.inf]
    assert output[2].isnan()


def test_chains_use_it() -> None:
    kinds = {type(m) for m in folded(nvae("res_mbconv").generator).modules()}
    assert FastELU in kinds
    assert nn.ELU not in kinds
