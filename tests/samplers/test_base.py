"""The loop that every sampler shares."""

from typing import Any

import pytest
import torch
from torch import Generator

from tests.toys import half_square
from vaebm.errors import UsageError
from vaebm.samplers.base import Chain, Potential, Sampler, StepInfo, stack_infos, value_and_grad


class Doubling(Sampler):
    """x ← 2x, with the number of the step as potential; needs to be called in order."""

    def __init__(self, num_steps: int = 3) -> None:
        super().__init__(num_steps)
        self.grad_modes: list[tuple[bool, bool]] = []

    def step(
        self, potential: Potential, chain: Chain, *, generator: Generator | None
    ) -> tuple[Chain, StepInfo]:
        self.grad_modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        grad_norm = torch.full((len(chain.state),), float(len(self.grad_modes)))
        state = chain.state.mul_(2)  # in place: run must have cloned the start
        return Chain(state, potential(state)), StepInfo(potential(state), grad_norm)


class Returning(Sampler):
    """Returns what it was told to."""

    def __init__(self, found: object) -> None:
        super().__init__(1)
        self.found = found

    def step(self, potential: Potential, chain: Chain, *, generator: Generator | None) -> Any:
        return self.found


STATE, VALUE = torch.zeros(3, 2), torch.zeros(3)


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (STATE, "must return a Chain and a StepInfo"),
        ((STATE, VALUE), "must return a Chain and a StepInfo"),
        ((Chain(STATE),), "must return a Chain and a StepInfo"),
        ((Chain(STATE[:2]), StepInfo(VALUE, VALUE)), r"a state of \(2, 2\), but \(3, 2\) is due"),
        ((Chain(STATE), StepInfo(STATE, VALUE)), r"a potential of \(3, 2\), but \(3,\) is due"),
        ((Chain(STATE), StepInfo(VALUE, VALUE[0])), r"a grad_norm of \(\), but \(3,\) is due"),
        ((Chain(STATE), StepInfo(VALUE, VALUE, 1.0)), r"an accept_prob of float, but"),
        ((Chain(None), StepInfo(VALUE, VALUE)), r"a state of NoneType, but \(3, 2\) is due"),
    ],
)
def test_step_that_breaks_the_contract_is_refused(found: object, complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^Returning.step (returned )?{complaint}"):
        Returning(found).run(half_square, STATE)


@pytest.mark.parametrize("num_steps", [0, -1])
def test_sampler_refuses_chains_without_steps(num_steps: int) -> None:
    with pytest.raises(UsageError, match="at least 1 step"):
        Doubling(num_steps)


def test_run_repeats_the_step() -> None:
    state, _ = Doubling(3).run(half_square, torch.ones(2, 4))
    assert torch.equal(state, torch.full((2, 4), 8.0))


def test_run_takes_another_number_of_steps_when_told() -> None:
    state, _ = Doubling(3).run(half_square, torch.ones(2, 4), num_steps=5)
    assert torch.equal(state, torch.full((2, 4), 32.0))


def test_run_keeps_its_own_number_of_steps_afterwards() -> None:
    sampler = Doubling(3)
    sampler.run(half_square, torch.ones(2, 4), num_steps=5)
    state, _ = sampler.run(half_square, torch.ones(2, 4))
    assert torch.equal(state, torch.full((2, 4), 8.0))


def test_run_protects_the_start_from_steps_in_place() -> None:
    start = torch.ones(2, 4)
    Doubling(3).run(half_square, start)
    assert torch.equal(start, torch.ones(2, 4))


def test_run_stacks_the_infos_in_order() -> None:
    _, info = Doubling(3).run(half_square, torch.ones(2, 4))
    assert torch.equal(info.potential, torch.tensor([[8.0] * 2, [32.0] * 2, [128.0] * 2]))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_run_steps_with_gradients_whatever_the_mode_around_it(mode: type) -> None:
    sampler = Doubling(2)
    with mode():
        sampler.run(half_square, torch.ones(2, 4))
    assert sampler.grad_modes == [(True, False)] * 2


def test_run_detaches_its_result_from_the_start() -> None:
    state, _ = Doubling(1).run(half_square, torch.ones(2, 4, requires_grad=True))
    assert not state.requires_grad


def test_run_leaves_the_mode_around_it_as_it_was() -> None:
    with torch.no_grad():
        Doubling(1).run(half_square, torch.ones(2, 4))
        assert not torch.is_grad_enabled()


def test_stacked_infos_hold_acceptance_where_there_was_a_test() -> None:
    infos = [StepInfo(torch.zeros(2), torch.zeros(2), torch.full((2,), p)) for p in (0.25, 0.5)]
    stacked = stack_infos(infos).accept_prob
    assert stacked is not None
    assert stacked.tolist() == [[0.25] * 2, [0.5] * 2]


def test_stacked_infos_hold_no_acceptance_where_there_was_no_test() -> None:
    assert stack_infos([StepInfo(torch.zeros(2), torch.zeros(2))]).accept_prob is None


def test_value_and_grad_equal_the_analytic_ones() -> None:
    state = torch.randn(3, 4)
    value, grad = value_and_grad(lambda x: (x**3).sum(1), state)
    torch.testing.assert_close(value, (state**3).sum(1))
    torch.testing.assert_close(grad, 3 * state**2)


def test_value_and_grad_are_detached() -> None:
    weight = torch.ones(4, requires_grad=True)
    value, grad = value_and_grad(lambda x: (weight * x).sum(1), torch.randn(3, 4))
    assert not value.requires_grad
    assert not grad.requires_grad


def test_value_and_grad_leave_parameters_without_gradient() -> None:
    weight = torch.ones(4, requires_grad=True)
    value_and_grad(lambda x: (weight * x).sum(1), torch.randn(3, 4))
    assert weight.grad is None


def test_value_and_grad_do_not_mark_the_state() -> None:
    state = torch.randn(3, 4)
    value_and_grad(half_square, state)
    assert not state.requires_grad
