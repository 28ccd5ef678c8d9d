"""Stage 1: the annealed bound, its logs and its checkpoints."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tests.toys import LinearVAE
from tests.training import small_trainer, toy_data
from vaebm.datamodules import Gaussians25DataModule
from vaebm.errors import DataError, UsageError
from vaebm.models import MLPVAE, ElboTerms
from vaebm.noise import generator_for
from vaebm.stage import lr_factor
from vaebm.vae_stage import VAEStage, balance, group_weights


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


def test_training_and_evaluation_draw_from_different_streams(
    stage: VAEStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = DataLoader(torch.zeros(4), batch_size=1)
    monkeypatch.setattr("vaebm.stage.evaluation_loader", lambda trainer: loader)
    monkeypatch.setattr(VAEStage, "trainer", None)
    generators = (stage.training_generator(), *stage.evaluation_generator(0, 1).rows)
    first, second = (torch.randn(4, generator=generator) for generator in generators)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_training(stage: VAEStage, value: float) -> None:
    with pytest.raises(DataError, match="training diverged"):
        stage.require_finite(torch.tensor(value), torch.zeros(3))


def test_nan_in_a_batch_is_blamed_on_the_data(stage: VAEStage) -> None:
    with pytest.raises(DataError, match="batch of step 0 holds NaN"):
        stage.require_finite(torch.tensor(float("nan")), torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize("part", ["log_px", "kl"])
def test_elbo_of_another_shape_is_refused(
    stage: VAEStage, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    terms = ElboTerms(torch.zeros(3), torch.zeros(3, 2))
    wrong = terms._replace(**{part: getattr(terms, part).sum(-1)})
    monkeypatch.setattr(type(stage.vae), "elbo", lambda *_, **__: wrong)
    with pytest.raises(UsageError, match=r"elbo of 3 images gave .* but \(B,\) and \(B, L\)"):
        stage.elbo_terms(torch.zeros(3, *stage.vae.image_shape), generator_for(0))


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


# As NVAE is trained


def scheduled(monkeypatch: pytest.MonkeyPatch, step: int, total: int, **options: Any) -> VAEStage:
    """A stage that stands at a step of a training."""
    stage = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), seed=5, **options)
    monkeypatch.setattr(VAEStage, "global_step", step)
    monkeypatch.setattr(stage, "total_steps", lambda: total)
    monkeypatch.setattr(stage, "log", lambda *_, **__: None)
    return stage


@pytest.mark.parametrize(
    ("step", "weight"), [(0, 1e-2), (10, 1e-2), (20, 1e-2), (35, 0.5), (50, 1.0), (99, 1.0)]
)
def test_kl_weight_waits_grows_and_stays(
    monkeypatch: pytest.MonkeyPatch, step: int, weight: float
) -> None:
    options = {"kl_anneal_portion": 0.3, "kl_const_portion": 0.2, "kl_const_coeff": 1e-2}
    stage = scheduled(monkeypatch, step, 100, **options)
    assert stage.kl_weight() == pytest.approx(weight)


@pytest.mark.parametrize(("beta", "coefficient"), [(0.0, 10.0), (0.5, 10**-0.5), (1.0, 1e-2)])
def test_penalty_coefficient_goes_geometrically(
    monkeypatch: pytest.MonkeyPatch, beta: float, coefficient: float
) -> None:
    stage = scheduled(monkeypatch, 0, 100, penalty_weight=1e-2, penalty_weight_init=10.0)
    assert stage.penalty_coefficient(beta) == pytest.approx(coefficient)
    stage.penalty_weight_init = None
    assert stage.penalty_coefficient(beta) == 1e-2


def test_penalty_is_added_with_its_coefficient(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = scheduled(monkeypatch, 0, 100, penalty_weight=0.25)
    monkeypatch.setattr(stage.vae, "penalty", lambda: torch.tensor(8.0))
    image = torch.randn(5, 2)
    with_penalty = stage.training_step(image, 0)
    stage.penalty_weight = 0.0
    torch.testing.assert_close(with_penalty, stage.training_step(image, 0) + 2.0)


def test_group_weights_are_those_of_the_reference() -> None:
    shapes = [(20, 4, 4)] * 2 + [(20, 8, 8)] * 3 + [(20, 16, 16)] * 5
    expected = torch.tensor([1 / 2] * 2 + [4 / 3] * 3 + [16 / 5] * 5) / 0.5
    torch.testing.assert_close(group_weights(shapes), expected)


def test_one_vector_of_latents_has_one_weight() -> None:
    assert group_weights([(16,)]).tolist() == [1.0]


def test_balance_has_mean_one_and_favours_what_is_large_for_its_size() -> None:
    kl, weights = torch.tensor([[4.0, 8.0], [2.0, 12.0]]), torch.tensor([1.0, 4.0])
    coefficients = balance(kl, weights)
    assert coefficients.mean().item() == pytest.approx(1)
    expected = (3.01 / 1) / (10.01 / 4)
    assert (coefficients[0] / coefficients[1]).item() == pytest.approx(expected)


@pytest.mark.parametrize(("step", "balanced"), [(10, True), (50, False)])
def test_divergences_are_balanced_while_they_are_annealed(
    monkeypatch: pytest.MonkeyPatch, step: int, balanced: bool
) -> None:
    stage = scheduled(monkeypatch, step, 100, kl_balance=True, kl_anneal_portion=0.5)
    image, kl = torch.randn(5, 2), torch.rand(5, 2) + 1
    terms = ElboTerms(torch.zeros(5), kl)
    monkeypatch.setattr(stage, "elbo_terms", lambda *_: terms)
    stage.vae.noise_shapes = (torch.Size([1, 1, 1]), torch.Size([1, 2, 2]), torch.Size([2]))
    beta = stage.kl_weight()
    weights = balance(kl, torch.tensor([1.0, 4.0])) if balanced else torch.ones(2)
    expected = beta * (kl * weights).sum(1).mean()
    torch.testing.assert_close(stage.training_step(image, 0), expected)


def test_adamax_step_follows_its_equation() -> None:
    vae = MLPVAE(latent_dim=3, width=8, depth=1)
    stage = VAEStage(vae, optimizer="adamax", optimizer_eps=1e-3, lr=0.1, weight_decay=0.5)
    optimizer = stage.make_optimizer()
    parameter = next(vae.parameters())
    before, grad = parameter.detach().clone(), torch.randn_like(parameter)
    parameter.grad = grad.clone()
    optimizer.step()
    decayed = grad + 0.5 * before
    # m = 0.1 g, u = |g| + eps, p ← p − lr / (1 − 0.9) · m / u
    expected = before - 0.1 * decayed / (decayed.abs() + 1e-3)
    torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("options", [{"penalty_weight_init": 0.0}, {"warmup_portion": 1.5}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        VAEStage(MLPVAE(), **options)


def test_unknown_optimiser_is_refused() -> None:
    with pytest.raises(UsageError, match="'adam' or 'adamax'"):
        VAEStage(MLPVAE(), optimizer="sgd")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.0), (5, 0.5), (10, 1.0), (55, 0.55), (100, 0.1), (120, 0.1)]
)
def test_learning_rate_warms_up_and_follows_a_cosine(step: int, factor: float) -> None:
    assert lr_factor(step, total=100, warmup=10, final=0.1) == pytest.approx(factor)


def test_warm_up_alone_keeps_the_learning_rate_afterwards(
    data: Gaussians25DataModule, tmp_path: Path
) -> None:
    stage = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1), lr=1e-2, warmup_portion=0.5, seed=5)
    trainer = small_trainer(tmp_path, max_steps=12)
    trainer.fit(stage, data)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2)


def test_test_logs_the_tighter_bound(data: Gaussians25DataModule, tmp_path: Path) -> None:
    vae = MLPVAE(latent_dim=3, width=8, depth=1)
    stage = VAEStage(vae, num_importance_samples=50, seed=5)
    (figures,) = small_trainer(tmp_path).test(stage, data, verbose=False)
    assert figures["test/log_px_importance"] > figures["test/elbo"]
    bits = -figures["test/log_px_importance"] / (math.log(2) * 2)
    assert figures["test/bits_per_dim_importance"] == pytest.approx(bits, rel=1e-5)


def test_temperature_reaches_the_samples() -> None:
    stage = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1))
    cold = stage.sample(50, generator=generator_for(0), mean=True, temperature=0.1)
    eps_z, eps_x = stage.vae.split(torch.randn(50, 5, generator=generator_for(0)))
    scaled = torch.cat([0.1 * eps_z, eps_x], dim=1)
    torch.testing.assert_close(cold, stage.vae.decode(scaled).mean)


def test_pictures_show_reconstructions() -> None:
    stage, points = VAEStage(MLPVAE(latent_dim=3, width=8, depth=1)), torch.randn(4, 2)
    noise = torch.randn(4, 3, generator=generator_for(0))
    pictures = stage.pictures_of(points, generator=generator_for(0))
    expected = stage.vae.reconstruct(points, noise=noise)
    assert torch.equal(pictures["reconstruction"], expected)


def test_vae_without_reconstructions_has_no_picture_of_them(linear_vae: LinearVAE) -> None:
    assert VAEStage(linear_vae).pictures_of(torch.randn(4, 3), generator=None) == {}


def test_penalty_of_a_vae_that_has_none_is_zero(linear_vae: LinearVAE) -> None:
    assert linear_vae.penalty() == 0
