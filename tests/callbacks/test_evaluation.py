"""Evaluation callbacks: their samples, and the data and models that they refuse."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule

from tests.training import ebm_stage, small_trainer, toy_data
from vaebm.callbacks import ClassifierFrechet, ToyEvaluation
from vaebm.callbacks.draws import draw_panels
from vaebm.datamodules import DigitsDataModule, Gaussians25DataModule, ImageDataModule
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.models import ConvEnergy, ConvVAE
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace


class OtherPoints(ImageDataModule):
    """Points of unknown density."""

    def __init__(self) -> None:
        super().__init__(25, 0)

    def splits(self) -> object:
        """Those of the 25 Gaussians."""
        return toy_data().splits()


def digits_stage() -> EBMStage:
    vae = ConvVAE(image_shape=(1, 8, 8), latent_dim=2, channels=4)
    energy = ConvEnergy(image_channels=1, channels=4, num_scales=1)
    return EBMStage(energy, LangevinSampler(1), NoiseSpace(), vae=vae)


def test_draws_are_the_same_every_time() -> None:
    stage = ebm_stage()
    first, second = (draw_panels(stage, 30, batch_size=20)["VAEBM"] for _ in range(2))
    assert torch.equal(first, second)


def test_draws_of_different_batches_differ() -> None:
    points = draw_panels(ebm_stage(), 40, batch_size=20)["VAEBM"]
    assert len(points.unique(dim=0)) == 40


def test_draws_of_no_stage_are_refused() -> None:
    with pytest.raises(UsageError, match="LightningModule cannot sample"):
        draw_panels(LightningModule(), 3)


def test_toy_evaluation_logs_the_true_likelihood_of_the_test_points(tmp_path: Path) -> None:
    data: Gaussians25DataModule = toy_data()
    trainer = small_trainer(tmp_path, ToyEvaluation(50, spacing=0.2, num_draws=256))
    trainer.test(ebm_stage(), data, verbose=False)
    expected = -data.log_prob(data.parts.test[:][0].double()).mean()
    assert float(trainer.callback_metrics["test/nll_true"]) == pytest.approx(float(expected))


def test_toy_evaluation_refuses_data_of_unknown_density(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, ToyEvaluation(50, spacing=0.2, num_draws=256))
    with pytest.raises(UsageError, match="known density"):
        trainer.test(ebm_stage(), OtherPoints(), verbose=False)


def test_classifier_frechet_logs_one_distance_for_each_set(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    trainer = small_trainer(tmp_path, ClassifierFrechet(num_samples=20, epochs=1))
    trainer.test(digits_stage(), DigitsDataModule(), verbose=False)
    names = {n for n in trainer.callback_metrics if n.startswith("test/frechet_")}
    assert names == {"test/frechet_vae", "test/frechet_vaebm", "test/frechet_test_set"}


def test_classifier_frechet_refuses_data_without_labels(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, ClassifierFrechet(num_samples=20, epochs=1))
    with pytest.raises(UsageError, match="needs labelled images"):
        trainer.test(ebm_stage(), toy_data(), verbose=False)


def test_classifier_frechet_refuses_a_single_sample() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        ClassifierFrechet(num_samples=1)
