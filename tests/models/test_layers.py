"""Building blocks that several networks share."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaebm.models.layers import (
    LogWeightNorm,
    SpectralPenalty,
    SqueezeExcitation,
    cached_weights,
    mlp,
    weight_matrices,
    wn_conv,
)


def exact_norms(matrices: dict[str, Tensor]) -> Tensor:
    return torch.stack([torch.linalg.matrix_norm(m, ord=2) for m in matrices.values()]).sum()


def random_matrix(rows: int, columns: int) -> Tensor:
    """A matrix with the singular values 1.3, 1, 1/1.3, ...: the power iteration's rate is known."""
    u, _, vh = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    return u * 1.3 ** (1 - torch.arange(u.shape[1])) @ vh


@pytest.fixture
def matrices() -> dict[str, Tensor]:
    shapes = [(6, 4), (3, 8), (5, 5)]
    return {f"net.{i}": random_matrix(*shape) for i, shape in enumerate(shapes)}


def test_mlp_has_the_given_widths() -> None:
    linear = [layer for layer in mlp([2, 7, 5, 3]) if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(2, 7), (7, 5), (5, 3)]


def test_mlp_has_an_activation_after_each_layer_but_the_last() -> None:
    kinds = [type(layer) for layer in mlp([2, 7, 5, 3], nn.Tanh)]
    assert kinds == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_weight_matrices_are_the_flattened_weights_of_all_layers() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU(), nn.Sequential(nn.Linear(4, 5)))
    matrices = weight_matrices(net)
    assert {name: m.shape for name, m in matrices.items()} == {"0": (3, 18), "2.0": (5, 4)}


def test_weight_matrices_pass_gradients_to_the_layers() -> None:
    layer = nn.Linear(4, 5)
    weight_matrices(nn.Sequential(layer))["0"].sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones(5, 4))


@pytest.mark.parametrize(("kinds", "names"), [((), {"0", "2.0"}), ((nn.Conv2d,), {"0"})])
def test_weight_matrices_are_of_the_kinds_asked_for(
    kinds: tuple[type[nn.Linear | nn.Conv2d], ...], names: set[str]
) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU(), nn.Sequential(nn.Linear(4, 5)))
    assert set(weight_matrices(net, *kinds)) == names


def test_normalised_weight_follows_its_equation() -> None:
    conv = wn_conv(3, 4, 3).double()
    direction = conv.parametrizations.weight.original
    length = conv.parametrizations.weight[0].log_weight_norm.exp()
    norm = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(conv.weight, length * direction / (norm + 1e-5))
    torch.testing.assert_close(length, norm + 1e-2, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_normalised_convolution_keeps_the_size(kernel: int, dilation: int) -> None:
    conv = wn_conv(2, 3, kernel, dilation=dilation)
    assert conv(torch.randn(1, 2, 7, 9)).shape == (1, 3, 7, 9)


def test_gates_are_between_zero_and_one_for_each_channel() -> None:
    features = torch.ones(2, 32, 3, 3)
    gates = SqueezeExcitation(32)(features)
    assert (gates == gates[..., :1, :1]).all()
    assert 0 < gates.min() < gates.max() < 1


def test_cached_weights_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, calls = wn_conv(2, 2), []
    monkeypatch.setattr(LogWeightNorm, "forward", lambda _, weight: calls.append(1) or 2 * weight)
    with cached_weights(conv):
        for _ in range(3):
            conv(torch.randn(1, 2, 4, 4))
    assert len(calls) == 1
    conv(torch.randn(1, 2, 4, 4))
    assert len(calls) == 2


def test_cached_weights_are_right_where_a_layer_was_copied() -> None:
    conv = wn_conv(2, 2)
    net = nn.Sequential(conv, deepcopy(conv))
    with torch.no_grad():
        net[1].parametrizations.weight[0].log_weight_norm += 1
    image = torch.randn(1, 2, 4, 4)
    expected = net(image)
    with cached_weights(net):
        torch.testing.assert_close(net(image), expected)


def test_penalty_is_the_sum_of_the_largest_singular_values(matrices: dict[str, Tensor]) -> None:
    penalty = SpectralPenalty(matrices)(matrices)
    torch.testing.assert_close(penalty, exact_norms(matrices), rtol=1e-3, atol=0)


def test_penalty_gradient_is_the_outer_product_of_the_leading_vectors(
    matrices: dict[str, Tensor],
) -> None:
    penalty = SpectralPenalty(matrices)
    leaves = {name: matrix.clone().requires_grad_() for name, matrix in matrices.items()}
    penalty(leaves).backward()
    for name, matrix in matrices.items():
        u, _, vh = torch.linalg.svd(matrix)
        torch.testing.assert_close(leaves[name].grad, u[:, :1] @ vh[:1], atol=1e-3, rtol=0)


def test_penalty_follows_matrices_that_change_slowly(matrices: dict[str, Tensor]) -> None:
    penalty = SpectralPenalty(matrices)
    penalty(matrices)
    for _ in range(20):
        for matrix in matrices.values():
            matrix.add_(0.01 * torch.randn_like(matrix))
        value = penalty(matrices)
    torch.testing.assert_close(value, exact_norms(matrices), rtol=1e-2, atol=0)


def test_penalty_never_exceeds_the_exact_value(matrices: dict[str, Tensor]) -> None:
    penalty = SpectralPenalty(matrices)
    penalty.first_iterations = 1
    assert penalty(matrices) <= exact_norms(matrices) * (1 + 1e-6)


@pytest.mark.parametrize(("calls_before", "iterations"), [(0, 40), (1, 4), (2, 4)])
def test_penalty_iterates_40_times_at_the_first_call_and_4_times_later(
    calls_before: int, iterations: int
) -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.999, 0.998]))  # too slow to converge
    penalty = SpectralPenalty({"net": matrix})
    for _ in range(calls_before):
        penalty({"net": matrix})
    (u,) = penalty.u_3x3.clone()
    for _ in range(iterations):
        v = F.normalize(matrix.T @ u, dim=0)
        u = F.normalize(matrix @ v, dim=0)
    penalty({"net": matrix})
    torch.testing.assert_close(penalty.u_3x3[0], u)


def test_penalty_backward_works_after_a_second_call(matrices: dict[str, Tensor]) -> None:
    leaves = {name: matrix.requires_grad_() for name, matrix in matrices.items()}
    penalty = SpectralPenalty(leaves)
    (penalty(leaves) + penalty(leaves)).backward()
    assert all(leaf.grad is not None for leaf in leaves.values())


def test_penalty_resumes_from_its_state_dict(matrices: dict[str, Tensor]) -> None:
    penalty, resumed = SpectralPenalty(matrices), SpectralPenalty(matrices)
    penalty(matrices)
    resumed.load_state_dict(penalty.state_dict())
    for matrix in matrices.values():
        matrix.add_(0.1 * torch.randn_like(matrix))
    assert torch.equal(resumed(matrices), penalty(matrices))


def test_penalty_has_buffers_and_no_parameters(matrices: dict[str, Tensor]) -> None:
    penalty = SpectralPenalty(matrices)
    assert not list(penalty.parameters())
    assert len(penalty.state_dict()) == len(matrices) + 1
