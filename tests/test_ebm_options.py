"""Options of stage 2: contrast on means, held offset, initialisation by data, what is logged."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.toys import LinearVAE, QuadraticEnergy
from tests.training import BATCHES, ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.models import MLPVAE, DenseVAE, MLPEnergy, ResidualEnergy
from vaebm.noise import generator_for
from vaebm.samplers import LangevinSampler
from vaebm.spaces import DataSpace, JointSpace, NoiseSpace, Space


def linear_stage(space: Space | None = None, num_steps: int = 3, **options: Any) -> EBMStage:
    """A stage whose energy and VAE have closed forms, outside of any training."""
    return EBMStage(
        QuadraticEnergy(0.7, 0.2),
        LangevinSampler(num_steps, step_size=0.1),
        space or NoiseSpace(),
        vae=LinearVAE(),
        **{"spectral_weight": 0, "seed": 5, **options},
    )


def silent(stage: EBMStage) -> EBMStage:
    stage.log = stage.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return stage


# The contrast


@pytest.mark.parametrize("space", [NoiseSpace(), NoiseSpace("joint"), JointSpace()])
def test_contrast_on_means_takes_the_decoders_means(space: Space) -> None:
    sample, mean = (linear_stage(space, contrast=kind) for kind in ("sample", "mean"))
    x_sample, first, _ = sample.negatives(8, generator_for(0))
    x_mean, second, _ = mean.negatives(8, generator_for(0))
    assert torch.equal(first, second)  # the chains are the same
    z = first[:, :2]
    torch.testing.assert_close(x_mean, z @ mean.vae.weight.T + mean.vae.bias)
    assert not torch.isclose(x_sample, x_mean).any()


def test_contrast_on_means_has_their_gradient() -> None:
    stage, x_data = silent(linear_stage(contrast="mean")), torch.randn(8, 3)
    _, state, _ = stage.negatives(8, stage.training_generator())
    mean = stage.vae.decode(state).mean
    stage.training_step(x_data, 0).backward()
    # ∂/∂curvature of ½ k ‖x − c‖² is half the squared distance.
    squares = [(x - 0.2).square().sum(1).mean() / 2 for x in (x_data, mean)]
    torch.testing.assert_close(stage.energy.curvature.grad, squares[0] - squares[1])


def test_means_of_the_contrast_are_not_clamped() -> None:
    vae = DenseVAE((1, 4, 4), latent_dim=2, width=4)
    torch.nn.init.constant_(vae.decoder[0][-1].bias, 3.0)
    stage = EBMStage(
        QuadraticEnergy(), LangevinSampler(1), NoiseSpace(), vae=vae, contrast="mean", seed=5
    )
    assert stage.negatives(3, generator_for(0))[0].min() > 1


# The offset


def test_offset_penalty_is_the_square_of_the_middle_of_both_means() -> None:
    stage = linear_stage(offset_weight=0.5)
    penalty = stage.penalty(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0]))
    assert float(penalty) == 0.5 * ((1.5 + 2.5) / 2) ** 2


def test_offset_penalty_pulls_data_and_model_alike() -> None:
    stage = linear_stage(offset_weight=0.5)
    data, model = (torch.randn(6, requires_grad=True) for _ in range(2))
    stage.penalty(data, model).backward()
    expected = 0.5 * (data.mean() + model.mean()) / 2 / 6
    for energy in (data, model):
        torch.testing.assert_close(energy.grad, expected.detach().expand(6))


def gradient(stage: EBMStage, x_data: Tensor) -> Tensor:
    stage.zero_grad()
    stage.training_step(x_data, 0).backward()
    return torch.stack([p.grad for p in stage.energy.parameters()])  # type: ignore[misc]


def test_slope_penalty_counts_data_and_model_alike() -> None:
    plain, x_data = silent(linear_stage()), torch.randn(8, 3)
    steep = silent(linear_stage(gradient_weight=0.3))
    x_model, *_ = plain.negatives(8, plain.training_generator())
    found = gradient(steep, x_data) - gradient(plain, x_data)
    # The mean of ‖k (x − c)‖² over all sixteen images, by k and by c.
    off = torch.cat([x_data, x_model]) - 0.2
    by_curvature = 2 * 0.7 * off.square().sum(1).mean()
    by_centre = -2 * 0.7**2 * off.sum(1).mean()
    torch.testing.assert_close(found, 0.3 * torch.stack([by_curvature, by_centre]))


def test_offset_penalty_leaves_the_gradient_of_the_gap() -> None:
    stage, x_data = silent(linear_stage(offset_weight=0.3)), torch.randn(8, 3)
    total = gradient(stage, x_data)
    x_model, *_ = stage.negatives(8, stage.training_generator())
    stage.offset_weight = 0.0
    gap = gradient(stage, x_data)
    means = stage.energy(x_data).mean() + stage.energy(x_model).mean()
    offset = torch.autograd.grad(0.3 * (means / 2) ** 2, list(stage.energy.parameters()))
    assert torch.stack(offset).abs().min() > 0.01
    torch.testing.assert_close(total - gap, torch.stack(offset), rtol=1e-4, atol=1e-5)


def mean_energy_after_training(folder: Path, offset_weight: float) -> float:
    """Of data and samples, after a training of 80 fast steps."""
    stage, data = ebm_stage(offset_weight=offset_weight, lr=5e-2), toy_data()
    small_trainer(folder, max_steps=80).fit(stage, data)
    with torch.no_grad():
        x_model = stage.sample(100, generator=generator_for(0))
        energies = [stage.energy(x).mean() for x in (data.parts.test[:][0], x_model)]
    return float(sum(energies)) / 2


def test_offset_penalty_holds_the_constant_of_the_energy(tmp_path: Path) -> None:
    free, held = (mean_energy_after_training(tmp_path, weight) for weight in (0.0, 1.0))
    assert abs(free) > 5
    assert abs(held) < abs(free) / 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"contrast": "x"}, "contrast is 'x', but 'sample' or 'mean' is due"),
        ({"spectral_weight": -1.0}, "must not be negative"),
        ({"gradient_weight": -1.0}, "must not be negative"),
        ({"magnitude_weight": -1e-3}, "must not be negative"),
        ({"offset_weight": -0.1}, "must not be negative"),
        ({"data_init_batches": -1}, "data_init_batches must not be negative"),
    ],
)
def test_impossible_option_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        ebm_stage(**options)


# Initialisation by data


class FreshEnergy(MLPEnergy):
    """An energy that wants data before it is trained, and remembers them."""

    initialised: Tensor

    def __init__(self) -> None:
        super().__init__(width=8, depth=1)
        self.register_buffer("initialised", torch.tensor(False))
        self.seen: list[Tensor] = []

    @property
    def needs_data(self) -> bool:
        return not self.initialised

    def initialise(self, image: Tensor) -> None:
        self.initialised.fill_(True)
        self.seen.append(image)


def fresh_stage(**options: Any) -> tuple[EBMStage, list[Tensor]]:
    """A stage with such an energy, and what the energy saw."""
    stage, energy = ebm_stage(**options), FreshEnergy()
    stage.energy = energy
    return stage, energy.seen


class Squares(ImageDataModule):
    """Random images of 4×4 pixels."""

    def __init__(self) -> None:
        super().__init__(8, 0)

    def splits(self) -> Splits:
        image = torch.rand(32, 1, 4, 4, generator=generator_for(0))
        return Splits(*(Tensors(image) for _ in range(3)))


def residual_stage() -> EBMStage:
    energy = ResidualEnergy(1, channels=3, multipliers=(1, 2), halvings=(0,))
    vae = DenseVAE((1, 4, 4), latent_dim=2, width=4, depth=1)
    return EBMStage(energy, LangevinSampler(1, 0.01), NoiseSpace(), vae=vae, seed=5)


def test_residual_energy_starts_its_training_initialised(tmp_path: Path) -> None:
    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            layer = pl_module.energy.conv1  # type: ignore[union-attr]
            output = layer(Squares().parts.train[:][0])
            found.append(output.std((0, 2, 3)))

    found: list[Tensor] = []
    stage = residual_stage()
    small_trainer(tmp_path, Look(), max_steps=1).fit(stage, Squares())  # 4 batches are all images
    torch.testing.assert_close(found[0], torch.full((3,), 0.2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("options", "batches"), [({}, 5), ({"data_init_batches": 2}, 2)])
def test_training_initialises_the_energy_by_its_first_batches(
    tmp_path: Path, options: dict[str, int], batches: int
) -> None:
    stage, seen = fresh_stage(**options)
    small_trainer(tmp_path).fit(stage, toy_data())
    expected = list(islice(iter(toy_data().train_dataloader()), batches))
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.cat([batch[0] for batch in expected]))


def test_data_of_the_initialisation_do_not_change_the_training(tmp_path: Path) -> None:
    weights = []
    for batches in (0, 3):
        torch.manual_seed(0)
        stage, _ = fresh_stage(data_init_batches=batches)
        small_trainer(tmp_path).fit(stage, toy_data())
        weights.append(torch.nn.utils.parameters_to_vector(stage.energy.parameters()))
    assert torch.equal(*weights)


def test_resumed_training_keeps_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    data, trainer = Squares(), small_trainer(tmp_path, saver(tmp_path, 1), max_steps=1)
    trainer.fit(residual_stage(), data)
    stored = torch.load(tmp_path / "last.ckpt")["state_dict"]

    class Compare(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            found.update({name: value.clone() for name, value in pl_module.state_dict().items()})

    found: dict[str, Tensor] = {}
    resumed = small_trainer(tmp_path, Compare(), max_steps=2)
    resumed.fit(residual_stage(), data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert same_weights(found, stored)


def test_new_energy_is_initialised_though_the_trainer_read_a_checkpoint_before(
    tmp_path: Path,
) -> None:
    stage, _ = fresh_stage()
    trainer = small_trainer(tmp_path, saver(tmp_path, BATCHES))
    trainer.fit(stage, toy_data())
    trainer.test(stage, toy_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    stage, seen = fresh_stage()
    trainer.fit(stage, toy_data())
    assert len(seen) == 1


def test_energy_that_needs_no_data_is_left_alone(tmp_path: Path) -> None:
    stage, seen = fresh_stage()
    stage.energy.initialised.fill_(True)
    small_trainer(tmp_path).fit(stage, toy_data())
    assert seen == []


def test_no_batches_initialise_nothing(tmp_path: Path) -> None:
    stage, seen = fresh_stage(data_init_batches=0)
    small_trainer(tmp_path).fit(stage, toy_data())
    assert seen == []


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_initialises_nothing(tmp_path: Path, command: str) -> None:
    stage, seen = fresh_stage()
    getattr(small_trainer(tmp_path, limit_val_batches=1), command)(stage, toy_data())
    assert seen == []


def test_initialisation_without_a_datamodule_is_refused_in_one_line(tmp_path: Path) -> None:
    stage, _ = fresh_stage()
    with pytest.raises(UsageError, match="data_init_batches to 0") as caught:
        small_trainer(tmp_path).fit(stage, DataLoader(torch.randn(8, 2), 4))
    assert "\n" not in str(caught.value)


def test_bare_loaders_are_enough_where_nothing_is_initialised(tmp_path: Path) -> None:
    stage, _ = fresh_stage(data_init_batches=0)
    trainer = small_trainer(tmp_path, max_steps=2)
    trainer.fit(stage, DataLoader(torch.randn(8, 2), 4))
    assert trainer.global_step == 2


# What is logged


LOGGED = {
    "energy_gap", "energy_data", "energy_model", "energy_magnitude", "penalty", "grad_norm",
    "accept_prob", "state_square",
}  # fmt: skip


def test_training_logs_energies_and_the_signs_of_a_divergence(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)
    trainer.fit(ebm_stage(), toy_data())
    assert set(trainer.callback_metrics) == {f"train/{name}" for name in LOGGED}


def test_acceptance_is_not_logged_where_there_is_none(tmp_path: Path) -> None:
    stage, trainer = ebm_stage(), small_trainer(tmp_path)
    stage.sampler = LangevinSampler(3, noise_scale=0.0)
    trainer.fit(stage, toy_data())
    assert set(trainer.callback_metrics) == {f"train/{name}" for name in LOGGED - {"accept_prob"}}


def logged(stage: EBMStage, x_data: Tensor) -> dict[str, float]:
    """What one training step logs, by name."""
    found: dict[str, Tensor] = {}
    stage.log = lambda name, value, **_: found.update({name: value})  # type: ignore[method-assign]
    stage.log_dict = lambda values, **_: found.update(values)  # type: ignore[method-assign]
    stage.training_step(x_data, 0)
    return {name.removeprefix("train/"): float(value) for name, value in found.items()}


def test_logged_energies_are_those_of_data_and_chain_ends() -> None:
    stage, x_data = linear_stage(magnitude_weight=0.1), torch.randn(8, 3)
    x_model, *_ = stage.negatives(8, stage.training_generator())
    found = logged(stage, x_data)
    data, model = (stage.energy(x).detach() for x in (x_data, x_model))
    expected = {
        "energy_data": data.mean(),
        "energy_model": model.mean(),
        "energy_gap": data.mean() - model.mean(),
        "energy_magnitude": torch.cat([data, model]).abs().mean(),
        "penalty": 0.1 * (data.square().mean() + model.square().mean()),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=1e-5), name


def test_logged_acceptance_is_the_mean_of_all_steps() -> None:
    stage = linear_stage()
    _, _, info = stage.negatives(8, stage.training_generator())
    assert info.accept_prob is not None
    expected = float(info.accept_prob.mean())
    assert logged(stage, torch.randn(8, 3))["accept_prob"] == pytest.approx(expected)


@pytest.mark.parametrize("space", [NoiseSpace(), JointSpace()])
def test_state_square_is_that_of_the_latents_where_there_are_latents(space: Space) -> None:
    stage = linear_stage(space)
    _, state, _ = stage.negatives(8, stage.training_generator())
    expected = float(state[:, :2].square().mean())
    assert logged(stage, torch.randn(8, 3))["state_square"] == pytest.approx(expected)
    assert expected != pytest.approx(float(state.square().mean()))


def test_state_square_is_that_of_the_whole_image_in_data_space() -> None:
    stage = EBMStage(
        MLPEnergy(width=8, depth=1),
        LangevinSampler(2, 0.1),
        DataSpace(low=1.0, high=3.0),
        vae=MLPVAE(latent_dim=1, width=8, depth=1),
        seed=5,
    )
    _, state, _ = stage.negatives(8, stage.training_generator())
    expected = float(state.square().mean())
    assert logged(stage, torch.randn(8, 2))["state_square"] == pytest.approx(expected)
