"""The bound of Adam's state on the next gradient, against its formula on known gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

import vaebm.ebm_stage
from tests.training import BATCHES, ebm_stage, small_trainer, toy_data
from vaebm.adam_bound import bound_gradients

BETA = 0.9
HISTORY = [[0.5, -2.0, 0.0], [1.5, 1.0, 0.0], [-0.25, 3.0, 0.0]]
HUGE = [1e3, -1e3, 1e3]


def after(
    history: list[list[float]], kind: type[Optimizer] = torch.optim.Adam, **options: Any
) -> tuple[Tensor, Optimizer]:
    """A parameter and its optimiser after some gradients."""
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = kind([parameter], lr=0.1, **options)  # type: ignore[call-arg]
    for grad in history:
        parameter.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
    return parameter, optimizer


def bounds(history: list[list[float]]) -> list[float]:
    """3 √(v / (1 − β₂ᵗ)) + 0.1 with v = (1 − β₂) Σ_i β₂^(t−i) g_i²."""
    found, t = [], len(history)
    for column in zip(*history, strict=True):
        v = (1 - BETA) * sum(BETA ** (t - i) * g**2 for i, g in enumerate(column, 1))
        found.append(3 * (v / (1 - BETA**t)) ** 0.5 + 0.1)
    return found


def bounded(parameter: Tensor, optimizer: Optimizer, grad: list[float], **options: Any) -> Tensor:
    parameter.grad = torch.tensor(grad, dtype=torch.float64)
    bound_gradients(optimizer, **options)
    return parameter.grad


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_huge_gradients_are_cut_to_the_formula(kind: type[Optimizer], steps: int) -> None:
    history = HISTORY[:steps]
    found = bounded(*after(history, kind, betas=(0.5, BETA)), HUGE)
    first, second, third = bounds(history)
    expected = torch.tensor([first, -second, third], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_element_that_never_had_a_gradient_keeps_the_slack() -> None:
    found = bounded(*after(HISTORY, betas=(0.5, BETA)), HUGE)
    assert float(found[2]) == pytest.approx(0.1)


def test_gradients_within_the_bound_stay() -> None:
    grad = [0.99 * sign * bound for sign, bound in zip((1, -1, 1), bounds(HISTORY), strict=True)]
    assert bounded(*after(HISTORY, betas=(0.5, BETA)), grad).tolist() == grad


def test_factor_and_slack_are_those_given() -> None:
    found = bounded(*after(HISTORY, betas=(0.5, BETA)), HUGE, factor=1.0, slack=0.0)
    expected = [(bound - 0.1) / 3 for bound in bounds(HISTORY)]
    assert found.abs().tolist() == pytest.approx(expected)


def test_bound_of_a_long_training_keeps_its_digits() -> None:
    # 1 − 0.999¹ = 0.001 is far from the float32 that 0.999 rounds to.
    parameter, optimizer = after([[1.0, 2.0, 0.0]], betas=(0.5, 0.999))
    found = bounded(parameter, optimizer, HUGE)
    torch.testing.assert_close(
        found, torch.tensor([3.1, -6.1, 0.1], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_nothing_is_bounded_before_the_first_step() -> None:
    assert bounded(*after([]), HUGE).tolist() == HUGE


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}])
def test_optimiser_without_a_second_moment_is_left_alone(options: dict[str, float]) -> None:
    assert bounded(*after(HISTORY, torch.optim.SGD, **options), HUGE).tolist() == HUGE


def test_parameter_without_gradient_is_left_alone() -> None:
    first, optimizer = after(HISTORY, betas=(0.5, BETA))
    first.grad = None
    second = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    second.grad = torch.tensor(HUGE, dtype=torch.float64)
    optimizer.add_param_group({"params": [second]})
    bound_gradients(optimizer)
    assert first.grad is None
    assert second.grad.tolist() == HUGE  # it has taken no step yet


def test_each_group_has_its_own_decay_rate() -> None:
    first, optimizer = after([], betas=(0.5, 0.9))
    second = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer.add_param_group({"params": [second], "betas": (0.5, 0.5)})
    for scale in (1.0, 2.0):
        for parameter in (first, second):
            parameter.grad = torch.full((3,), scale, dtype=torch.float64)
        optimizer.step()
    for parameter in (first, second):
        parameter.grad = torch.full((3,), 1e3, dtype=torch.float64)
    bound_gradients(optimizer)
    # v̂ = (β g₁² + g₂²) / (β + 1)
    found = [float(p.grad[0]) for p in (first, second)]  # type: ignore[index]
    assert found == pytest.approx([3 * (4.9 / 1.9) ** 0.5 + 0.1, 3 * (4.5 / 1.5) ** 0.5 + 0.1])


def test_the_rest_of_the_state_stays() -> None:
    parameter, optimizer = after(HISTORY, betas=(0.5, BETA))
    before = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    bounded(parameter, optimizer, HUGE)
    assert all(torch.equal(before[n], v) for n, v in optimizer.state[parameter].items())


# In stage 2


class Norms(Callback):
    """Notes the norm of the gradient with which each step was taken."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """The gradient stays until the next one."""
        self.norms.append(norm_of(trainer.optimizers[0]))


def norm_of(optimizer: Optimizer) -> float:
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return float(torch.nn.utils.get_total_norm(grads))


@pytest.fixture
def bound_calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Norms of the gradients when stage 2 asks for the bound."""
    norms: list[float] = []

    def record(optimizer: Optimizer) -> None:
        norms.append(norm_of(optimizer))
        bound_gradients(optimizer)

    monkeypatch.setattr(vaebm.ebm_stage, "bound_gradients", record)
    return norms


@pytest.mark.parametrize(("wanted", "calls"), [(True, BATCHES), (False, 0)])
def test_stage_2_bounds_each_step_if_it_is_told_to(
    tmp_path: Path, bound_calls: list[float], wanted: bool, calls: int
) -> None:
    small_trainer(tmp_path).fit(ebm_stage(gradient_bound=wanted), toy_data())
    assert len(bound_calls) == calls


def test_stage_2_steps_with_the_bounded_gradient(tmp_path: Path) -> None:
    class Enlarge(Callback):
        """Makes all gradients but those of the first step huge."""

        def on_before_optimizer_step(
            self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
        ) -> None:
            for p in pl_module.energy.parameters():  # type: ignore[attr-defined, union-attr]
                p.grad *= 1e6 if trainer.global_step else 1.0

    norms = []
    for wanted in (True, False):
        watch = Norms()
        stage = ebm_stage(gradient_bound=wanted, lr=1e-9)
        small_trainer(tmp_path, Enlarge(), watch, max_steps=2).fit(stage, toy_data())
        norms.append(watch.norms[1])
    bounded_norm, huge_norm = norms
    assert bounded_norm < 100 < huge_norm


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_clipping_of_the_trainer_still_works(
    tmp_path: Path, bound_calls: list[float], wanted: bool
) -> None:
    watch = Norms()
    trainer = small_trainer(tmp_path, watch, gradient_clip_val=1e-3)
    trainer.fit(ebm_stage(gradient_bound=wanted), toy_data())
    assert watch.norms == [pytest.approx(1e-3, rel=1e-3)] * BATCHES
    assert all(norm > 2e-3 for norm in bound_calls)  # the bound comes first
