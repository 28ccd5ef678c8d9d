"""Stage 1: the annealed bound, its logs and its checkpoints."""

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tests.toys import LinearVAE
from tests.training import small_trainer, toy_data
from vaebm.datamodules import Gaussians25DataModule
from vaebm.errors import DataError, UsageError
from vaebm.models import MLPVAE
from vaebm.noise import generator_for
from vaebm.vae_stage import VAEStage


@pytest.fixture
def stage() -> VAEStage:
    return VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), seed=5)


@pytest.fixture
def data() -> Gaussians25DataModule:
    return toy_data()


def test_loss_is_the_negative_elbo_after_annealing(linear_vae: LinearVAE) -> None:
    stage = VAEStage(linear_vae, kl_anneal_portion=0.0, seed=5)
    stage.trainer = Trainer(max_steps=10, logger=False, barebones=True)
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]
    image = torch.randn(6, 3)
    noise = torch.randn(6, 2, generator=stage.training_generator())
    expected = -linear_vae.elbo(image, noise=noise).elbo.mean()
    assert torch.allclose(stage.training_step(image, 0), expected)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (3, 0.5), (6, 1.0), (9, 1.0)])
def test_kl_weight_grows_linearly_to_one(
    stage: VAEStage, monkeypatch: pytest.MonkeyPatch, step: int, weight: float
) -> None:
    stage.kl_anneal_portion = 0.6
    stage.trainer = Trainer(max_steps=10, logger=False, barebones=True)
    monkeypatch.setattr(type(stage), "global_step", step)
    monkeypatch.setattr(Trainer, "estimated_stepping_batches", 10)
    assert stage.kl_weight() == pytest.approx(weight)


def test_cosine_ends_at_the_final_learning_rate(
    data: Gaussians25DataModule, tmp_path: Path
) -> None:
    stage = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), lr=1e-2, lr_final=1e-4, seed=5)
    trainer = small_trainer(tmp_path, max_steps=12)
    trainer.fit(stage, data)
    (optimizer,) = trainer.optimizers
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


def test_training_raises_the_elbo(
    stage: VAEStage, data: Gaussians25DataModule, tmp_path: Path
) -> None:
    def elbo() -> float:
        noise = torch.randn(100, 3, generator=generator_for(0))
        with torch.no_grad():
            return float(stage.vae.elbo(data.parts.test[:][0], noise=noise).elbo.mean())

    before = elbo()
    small_trainer(tmp_path, max_steps=36).fit(stage, data)
    assert elbo() > before


def test_validation_logs_bits_per_dimension(
    stage: VAEStage, data: Gaussians25DataModule, tmp_path: Path
) -> None:
    trainer = small_trainer(tmp_path, limit_val_batches=1)
    trainer.validate(stage, data, verbose=False)
    elbo, bits = (float(trainer.callback_metrics[f"val/{n}"]) for n in ("elbo", "bits_per_dim"))
    assert bits == pytest.approx(-elbo / (2 * math.log(2)))


def test_evaluation_is_the_same_twice(
    stage: VAEStage, data: Gaussians25DataModule, tmp_path: Path
) -> None:
    values = []
    for _ in range(2):
        trainer = small_trainer(tmp_path)
        trainer.test(stage, data, verbose=False)
        values.append(float(trainer.callback_metrics["test/elbo"]))
    assert values[0] == values[1]


def test_means_are_less_spread_than_samples(linear_vae: LinearVAE) -> None:
    stage = VAEStage(linear_vae)
    mean, sample = (
        stage.sample(2000, generator=generator_for(1), mean=mean).var(0) for mean in (True, False)
    )
    assert (sample > mean).all()


def test_same_generator_gives_the_same_samples(stage: VAEStage) -> None:
    first, second = (stage.sample(8, generator=generator_for(2)) for _ in range(2))
    assert torch.equal(first, second)


def test_noise_of_a_step_depends_on_the_seed_alone_in_one_process(stage: VAEStage) -> None:
    other = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), seed=6)
    draws = [torch.randn(4, generator=s.training_generator()) for s in (stage, stage, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_training_and_evaluation_draw_from_different_streams(stage: VAEStage) -> None:
    generators = (stage.training_generator(), stage.evaluation_generator(0))
    first, second = (torch.randn(4, generator=generator) for generator in generators)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_training(stage: VAEStage, value: float) -> None:
    with pytest.raises(DataError, match="training diverged"):
        stage.require_finite(torch.tensor(value), torch.zeros(3))


def test_nan_in_a_batch_is_blamed_on_the_data(stage: VAEStage) -> None:
    with pytest.raises(DataError, match="batch of step 0 holds NaN"):
        stage.require_finite(torch.tensor(float("nan")), torch.tensor([1.0, float("nan")]))


def test_weights_with_nan_are_never_saved(stage: VAEStage, tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path)
    trainer.strategy.connect(stage)
    with torch.no_grad():
        next(stage.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="holds NaN"):
        trainer.save_checkpoint(tmp_path / "nan.ckpt")
    assert not (tmp_path / "nan.ckpt").exists()


@pytest.mark.parametrize("batch", [torch.zeros(4, 3), torch.zeros(4, 1, 8, 8)])
def test_images_of_another_shape_are_refused(stage: VAEStage, batch: Tensor) -> None:
    with pytest.raises(UsageError, match=r"MLPVAE is made for \(2,\)"):
        stage.images_of(batch)
