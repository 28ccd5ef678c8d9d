"""Compiled potentials, and when they give up. Recorded ones need a GPU: test_cuda.py."""

import pytest
import torch
from torch import Tensor

from tests.models.test_fold import nvae
from tests.test_chain_networks import small_energy
from vaebm.acceleration import CompiledPotential, GraphedPotential, accelerated
from vaebm.chain_potential import ChainPotential
from vaebm.samplers import LangevinSampler, value_and_grad
from vaebm.spaces import NoiseSpace

CPU = torch.device("cpu")


def square(state: Tensor) -> Tensor:
    return 0.5 * state.square().sum(1)


@pytest.mark.slow
def test_a_compiled_chain_is_the_plain_one() -> None:
    vae, energy = nvae("res_mbconv"), small_energy()
    start = torch.randn(2, vae.noise_dim)
    ends = []
    for flag in (False, True):
        potential = ChainPotential(compile=flag).of(NoiseSpace(), vae, energy)
        generator = torch.Generator().manual_seed(0)
        ends.append(LangevinSampler(3, 1e-3).run(potential, start, generator=generator)[0])
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_runs_as_it_is_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(state: Tensor) -> Tensor:
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, **options: refuse)
    potential = accelerated(square, CPU, compile=True)
    state = torch.randn(2, 3)
    with pytest.warns(UserWarning, match="chains run uncompiled.*no C[+][+] compiler at all"):
        value, grad = value_and_grad(potential, state)
    assert torch.equal(value, square(state))
    assert torch.equal(grad, state)
    assert torch.equal(potential(state), square(state))


def test_a_plain_potential_stays_itself_on_a_cpu() -> None:
    assert accelerated(square, CPU, compile=False) is square
    assert isinstance(accelerated(square, CPU, compile=True), CompiledPotential)
    assert isinstance(accelerated(square, torch.device("cuda"), compile=False), GraphedPotential)


def test_a_shape_is_recorded_when_it_comes_often_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, recorded = GraphedPotential(square), []

    def refuse(potential: object, state: Tensor) -> None:
        recorded.append(len(state))
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("vaebm.acceleration.record", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for size in (2, 3, 2, 3, 2, 2, 2):
        potential.value_and_grad(torch.randn(size, 3))
    assert not recorded
    with pytest.warns(UserWarning, match="without a CUDA graph.*not permitted"):
        value, _ = potential.value_and_grad(torch.ones(2, 3))
    assert value.tolist() == [1.5, 1.5]
    for _ in range(5):
        potential.value_and_grad(torch.ones(2, 3))
    assert recorded == [2]
