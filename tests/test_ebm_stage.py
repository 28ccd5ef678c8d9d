"""Stage 2: the contrastive gradient, the frozen VAE, reproducible chains, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from tests.toys import LinearVAE, QuadraticEnergy
from tests.training import BATCHES, ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.models import MLPVAE, MLPEnergy
from vaebm.models.layers import frozen
from vaebm.noise import generator_for
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.spaces import DataSpace, NoiseSpace
from vaebm.stage import Stage
from vaebm.vae_stage import VAEStage


@pytest.fixture
def linear(linear_vae: LinearVAE) -> EBMStage:
    """A stage whose energy and VAE have closed forms, outside of any training."""
    sampler = LangevinSampler(3, step_size=0.1)
    stage = EBMStage(
        QuadraticEnergy(0.7, 0.2), sampler, NoiseSpace(), vae=linear_vae, spectral_weight=0, seed=5
    )
    stage.log = stage.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return stage


def place(monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, step: int = 0) -> None:
    """Pretend to be on a rank at a step."""
    monkeypatch.setattr(Stage, "global_rank", rank)
    monkeypatch.setattr(Stage, "global_step", step)


# The loss


def mean_gradient(stage: EBMStage, images: Tensor) -> Tensor:
    """E[∂E/∂θ], one image at a time."""
    parameters = list(stage.energy.parameters())
    rows = [torch.autograd.grad(stage.energy(image[None])[0], parameters) for image in images]
    return torch.stack([torch.stack(row) for row in rows]).mean(0)


def test_gradient_is_that_of_the_data_minus_that_of_the_model(linear: EBMStage) -> None:
    x_data = torch.randn(8, 3)
    x_model, *_ = linear.negatives(8, linear.training_generator())
    linear.training_step(x_data, 0).backward()
    found = torch.stack([p.grad for p in linear.energy.parameters()])  # type: ignore[misc]
    expected = mean_gradient(linear, x_data) - mean_gradient(linear, x_model)
    assert torch.allclose(found, expected, atol=1e-6)


def test_magnitude_penalty_is_the_sum_of_mean_squares(linear: EBMStage) -> None:
    linear.magnitude_weight = 0.5
    penalty = linear.penalty(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))
    assert float(penalty) == 0.5 * (2.5 + 8.0)


def test_training_lowers_the_energy_of_data_below_that_of_samples(tmp_path: Path) -> None:
    stage, data = ebm_stage(lr=1e-2), toy_data()
    small_trainer(tmp_path, max_steps=60).fit(stage, data)
    with torch.no_grad():
        gap = (
            stage.energy(data.parts.test[:][0]).mean()
            - stage.energy(stage.panels(100, generator=generator_for(0))["VAE"]).mean()
        )
    assert gap < 0


# The frozen VAE


def test_vae_stays_in_evaluation_mode(linear: EBMStage) -> None:
    linear.train()
    assert (linear.energy.training, linear.vae.training) == (True, False)


def test_vae_gets_no_gradient(linear: EBMStage) -> None:
    linear.training_step(torch.randn(8, 3), 0).backward()
    assert all(p.grad is None and not p.requires_grad for p in linear.vae.parameters())


def test_chains_leave_no_gradient_on_the_energy(linear: EBMStage) -> None:
    linear.negatives(8, generator_for(0))
    assert all(p.grad is None and p.requires_grad for p in linear.energy.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_frozen_restores_mode_and_gradients(linear: EBMStage, training: bool) -> None:
    linear.energy.train(training).centre.requires_grad_(False)
    with frozen(linear.energy):
        assert not any(p.requires_grad for p in linear.energy.parameters())
    assert linear.energy.training == training
    assert [p.requires_grad for p in linear.energy.parameters()] == [True, False]


def test_training_leaves_the_vae_unchanged(tmp_path: Path) -> None:
    stage = ebm_stage()
    before = {name: value.clone() for name, value in stage.vae.state_dict().items()}
    small_trainer(tmp_path).fit(stage, toy_data())
    assert same_weights(before, stage.vae.state_dict())


def test_training_changes_the_energy(tmp_path: Path) -> None:
    stage = ebm_stage()
    before = {name: value.clone() for name, value in stage.energy.state_dict().items()}
    small_trainer(tmp_path).fit(stage, toy_data())
    assert not same_weights(before, stage.energy.state_dict())


def test_optimizer_holds_the_energy_alone(tmp_path: Path) -> None:
    stage, trainer = ebm_stage(), small_trainer(tmp_path)
    trainer.fit(stage, toy_data())
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in stage.energy.parameters()]


def test_stage_without_a_vae_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--model\.vae_checkpoint"):
        EBMStage(QuadraticEnergy(), LangevinSampler(), NoiseSpace())


def test_energy_for_other_images_is_refused_before_training(tmp_path: Path) -> None:
    stage = ebm_stage()
    stage.energy.net[0] = torch.nn.Linear(5, 8)
    with pytest.raises(UsageError, match=r"MLPEnergy fails on .* of shape \(2,\)"):
        small_trainer(tmp_path).fit(stage, toy_data())


class Column(MLPEnergy):
    """Gives (B, 1), which would silently become (B, B) in a sum."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)[:, None]


def test_energy_of_another_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^Column gives \(2, 1\) of 2 images, but \(2,\) is due"):
        Column(width=8, depth=1).require_shape((2,))


# Noise


@pytest.mark.parametrize("other", [{"rank": 1}, {"step": 1}])
def test_negatives_differ_by_rank_and_step(
    linear: EBMStage, monkeypatch: pytest.MonkeyPatch, other: dict[str, int]
) -> None:
    place(monkeypatch)
    first, *_ = linear.negatives(8, linear.training_generator())
    place(monkeypatch, **other)
    second, *_ = linear.negatives(8, linear.training_generator())
    assert not torch.isclose(first, second).any()


def test_negatives_are_equal_for_equal_seed_rank_and_step(
    linear: EBMStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, rank=1, step=7)
    first, *_ = linear.negatives(8, linear.training_generator())
    torch.manual_seed(1)
    second, *_ = linear.negatives(8, linear.training_generator())
    assert torch.equal(first, second)


def test_negatives_start_from_the_replay_buffer(linear: EBMStage) -> None:
    linear.replay = ReplayBuffer(capacity=8, reuse_prob=1.0, ramp_steps=0)
    linear.sampler = LangevinSampler(1, step_size=1e-12)  # chains stay where they start
    first, *_ = linear.negatives(8, generator_for(0))
    second, *_ = linear.negatives(8, generator_for(1))
    assert torch.allclose(first.sort(0).values, second.sort(0).values, atol=1e-4)


def test_samples_start_afresh_and_leave_the_replay_buffer_alone(linear: EBMStage) -> None:
    linear.replay = ReplayBuffer(capacity=8, reuse_prob=1.0, ramp_steps=0)
    linear.sample(8, generator=generator_for(0))
    assert len(linear.replay) == 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_samples_are_the_same_in_every_gradient_mode(linear: EBMStage, mode: type) -> None:
    expected = linear.sample(4, generator=generator_for(0))
    with mode():
        assert torch.equal(linear.sample(4, generator=generator_for(0)), expected)


def test_likelihood_bound_is_elbo_minus_energy(linear: EBMStage) -> None:
    image = torch.randn(5, 3)
    terms = linear.log_likelihood(image, generator_for(0))
    assert torch.allclose(terms["elbo_minus_energy"], terms["elbo"] - linear.energy(image))


def test_data_space_keeps_the_shape_of_images(linear: EBMStage) -> None:
    linear.space = DataSpace(init="vae")
    assert linear.sample(4, generator=generator_for(0)).shape == (4, 3)


# Resuming


STEPS = 3 * BATCHES
VALIDATION: dict[str, Any] = {
    "limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
}  # fmt: skip


def train(stage: Stage, folder: Path, every: int, ckpt_path: Path | None = None) -> Trainer:
    """Train with weight averaging and checkpoints; the cosine is one of all steps."""
    average = EMAWeightAveraging(decay=0.9)
    trainer = small_trainer(folder, average, saver(folder, every), max_steps=STEPS, **VALIDATION)
    trainer.fit(stage, toy_data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def persistent(init_seed: int) -> EBMStage:
    """Stage 2 with persistent chains and a cosine; `init_seed` only sets the first weights."""
    torch.manual_seed(init_seed)
    replay = ReplayBuffer(capacity=37, reuse_prob=0.7, ramp_steps=STEPS)
    return ebm_stage(replay, lr_final=1e-4)


def first_stage(init_seed: int) -> VAEStage:
    """Stage 1 with a cosine."""
    torch.manual_seed(init_seed)
    return VAEStage(LinearToy(), lr=1e-2, lr_final=1e-4, seed=5)


class LinearToy(LinearVAE):
    """The linear VAE for data in the plane, with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.noise_shapes = (torch.Size([2]), torch.Size([2]))
        self.weight = torch.nn.Parameter(torch.randn(2, 2))
        self.bias = torch.nn.Parameter(torch.randn(2))

    def likelihood(self, z: Tensor) -> object:
        """p(x|z) in the plane."""
        from vaebm.distributions import DiagonalNormal

        mean = z @ self.weight.T + self.bias
        return DiagonalNormal(mean, torch.full_like(mean, self.sigma))


def differences(first: Path, second: Path) -> list[str]:
    """Where two checkpoints differ: averaged weights, raw weights, optimiser."""
    one, two = (torch.load(path / "last.ckpt") for path in (first, second))
    states = [
        {n: p[k] for n, p in c["optimizer_states"][0]["state"].items() for k in ("exp_avg",)}
        for c in (one, two)
    ]
    found = [
        key for key in ("state_dict", "current_model_state") if not same_weights(one[key], two[key])
    ]
    return found + ([] if same_weights(*states) else ["optimizer"])


# Epochs end after every fourth step.
INTERRUPTED = {"in an epoch": 6, "between epochs": 8}


@pytest.mark.parametrize("step", INTERRUPTED.values(), ids=INTERRUPTED)
@pytest.mark.parametrize("make", [first_stage, persistent], ids=["stage 1", "stage 2"])
def test_resumed_training_equals_the_uninterrupted_one(
    tmp_path: Path, step: int, make: type[Stage]
) -> None:
    every = 6 if step == 6 else 4
    train(make(1), tmp_path / "whole", every)
    checkpoint = tmp_path / "whole" / f"step={step}.ckpt"
    train(make(2), tmp_path / "resumed", every, checkpoint)
    assert differences(tmp_path / "whole", tmp_path / "resumed") == []


@pytest.mark.parametrize("step", INTERRUPTED.values(), ids=INTERRUPTED)
def test_resumed_chains_equal_the_uninterrupted_ones(tmp_path: Path, step: int) -> None:
    whole, resumed = persistent(1), persistent(2)
    every = 6 if step == 6 else 4
    train(whole, tmp_path / "whole", every)
    train(resumed, tmp_path / "resumed", every, tmp_path / "whole" / f"step={step}.ckpt")
    first, second = whole.replay.state_dict(), resumed.replay.state_dict()
    assert torch.equal(first.pop("ring"), second.pop("ring"))
    assert first == second


def test_noise_differs_between_accumulated_batches_of_one_step(linear: EBMStage) -> None:
    first, *_ = linear.negatives(8, linear.training_generator(0))
    second, *_ = linear.negatives(8, linear.training_generator(1))
    assert not torch.equal(first, second)


def test_energies_are_float32_under_bf16_autocast(linear: EBMStage) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert linear.energies(torch.randn(4, 2)).dtype == torch.float32


def test_energy_on_x_alone_is_not_scored_as_vaebm() -> None:
    stage = EBMStage(
        MLPEnergy(width=8, depth=1),
        LangevinSampler(2, 0.1),
        DataSpace(),
        vae=MLPVAE(width=8, depth=1),
    )
    terms = stage.log_likelihood(torch.randn(3, 2), generator_for(0))
    assert stage.title == "EBM"
    assert "elbo_minus_energy" not in terms
