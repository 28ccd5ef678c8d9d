"""Evaluation callbacks: their samples, and the data and models that they refuse."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging
from PIL import Image
from torch import Tensor

import vaebm.callbacks.class_features
from tests.training import ebm_stage, small_trainer, toy_data
from vaebm.callbacks import ClassifierFrechet, SampleSteps, ToyEvaluation
from vaebm.callbacks.class_features import Distances, classifier_of
from vaebm.callbacks.draws import draw_panels
from vaebm.datamodules import DigitsDataModule, Gaussians25DataModule, ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models import ConvEnergy, ConvVAE
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace
from vaebm.vae_stage import VAEStage


class OtherPoints(ImageDataModule):
    """Points of unknown density."""

    def __init__(self) -> None:
        super().__init__(25, 0)

    def splits(self) -> object:
        """Those of the 25 Gaussians."""
        return toy_data().splits()


class Bars(ImageDataModule):
    """Noisy images of 8×8 pixels with one bright half, which is the label."""

    num_classes = 2

    def __init__(self, num_train: int = 64) -> None:
        super().__init__(32, 0)
        self.num_train = num_train

    def splits(self) -> Splits:
        """Fixed random images."""
        generator = torch.Generator().manual_seed(0)
        sizes = (self.num_train, 40, 40)
        return Splits(*(self.part(size, generator) for size in sizes))

    @staticmethod
    def part(size: int, generator: torch.Generator) -> Tensors:
        image, label = torch.rand(size, 1, 8, 8, generator=generator) / 2, torch.arange(size) % 2
        image[label == 1, :, :4] += 0.5
        image[label == 0, :, 4:] += 0.5
        return Tensors(image, label)


def digits_stage() -> EBMStage:
    torch.manual_seed(0)
    vae = ConvVAE(image_shape=(1, 8, 8), latent_dim=2, channels=4)
    energy = ConvEnergy(image_channels=1, channels=4, num_scales=1)
    return EBMStage(energy, LangevinSampler(1), NoiseSpace(), vae=vae)


def metrics_of(
    folder: Path, callback: Callback, data: ImageDataModule | None = None
) -> dict[str, Any]:
    """What a test of the digits' stage logs."""
    trainer = small_trainer(folder, callback)
    trainer.test(digits_stage(), data or Bars(), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_draws_are_the_same_every_time() -> None:
    stage = ebm_stage()
    first, second = (draw_panels(stage, 30, batch_size=20)["VAEBM"] for _ in range(2))
    assert torch.equal(first, second)


def test_draws_of_different_batches_differ() -> None:
    points = draw_panels(ebm_stage(), 40, batch_size=20)["VAEBM"]
    assert len(points.unique(dim=0)) == 40


@pytest.mark.parametrize("callback", [ClassifierFrechet(20), SampleSteps((1, 2), 20)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_samples_are_drawn_in_the_precision_of_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, callback: Callback, precision: str
) -> None:
    stage, seen = digits_stage(), []
    chains = stage.run_chains

    def spy(*args: Any, **options: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return chains(*args, **options)

    monkeypatch.setattr(stage, "run_chains", spy)
    trainer = small_trainer(tmp_path, callback, precision=precision)
    trainer.test(stage, Bars(), verbose=False)
    assert set(seen) == {precision == "bf16-mixed"}


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
    with pytest.raises(UsageError, match="need labelled images"):
        trainer.test(ebm_stage(), toy_data(), verbose=False)


def test_classifier_frechet_refuses_a_single_sample() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        ClassifierFrechet(num_samples=1)


def test_classifier_frechet_to_the_test_set_compares_the_training_set(tmp_path: Path) -> None:
    logged = metrics_of(tmp_path, ClassifierFrechet(20, epochs=1, reference="test"))
    names = {name for name in logged if name.startswith("test/frechet_")}
    assert names == {"test/frechet_vae", "test/frechet_vaebm", "test/frechet_train_set"}


@pytest.mark.parametrize("reference", ["train", "test"])
def test_classifier_frechet_is_the_distance_to_its_reference(
    tmp_path: Path, reference: str
) -> None:
    logged = metrics_of(tmp_path, ClassifierFrechet(20, epochs=1, reference=reference))  # type: ignore[arg-type]
    data = Bars()
    real = getattr(data.parts, reference)[:][0]
    distances = Distances(classifier_of(data, torch.device("cpu"), 1, None), real)
    expected = float(distances.to(draw_panels(digits_stage(), 20)["VAEBM"]))
    assert logged["test/frechet_vaebm"] == pytest.approx(expected, rel=1e-4)


def test_classifier_frechet_refuses_another_reference() -> None:
    with pytest.raises(UsageError, match="reference is 'val', but 'train' or 'test' is due"):
        ClassifierFrechet(reference="val")  # type: ignore[arg-type]


@pytest.mark.parametrize("validate", [True, False])
def test_classifier_frechet_measures_at_validations_if_asked_to(
    tmp_path: Path, validate: bool
) -> None:
    callback = ClassifierFrechet(20, epochs=1, validate=validate)
    trainer = small_trainer(tmp_path, callback, max_steps=2, limit_val_batches=1)
    trainer.fit(digits_stage(), Bars())
    names = {name for name in trainer.callback_metrics if name.startswith("val/frechet_")}
    expected = {f"val/frechet_{of}" for of in ("vae", "vaebm", "test_set")}
    assert names == (expected if validate else set())


def test_classifier_frechet_measures_averaged_weights_in_a_training(tmp_path: Path) -> None:
    logged = []
    for averaging in ([], [EMAWeightAveraging(decay=0.5)]):
        callback = ClassifierFrechet(20, epochs=1, validate=True)
        trainer = small_trainer(tmp_path, *averaging, callback, max_steps=2, limit_val_batches=1)
        torch.manual_seed(0)
        vae = ConvVAE(image_shape=(1, 8, 8), latent_dim=2, channels=4)
        stage = VAEStage(vae, lr=0.1, seed=0)  # so fast that an average is far from the end
        trainer.fit(stage, Bars())  # ends with the averaged weights in the stage
        logged.append(float(trainer.callback_metrics["val/frechet_vae"]))
        classifier = classifier_of(Bars(), torch.device("cpu"), 1, None)
        distances = Distances(classifier, Bars().parts.train[:][0])
        expected = float(distances.to(draw_panels(stage, 20)["VAE"]))
        assert logged[-1] == pytest.approx(expected, rel=1e-4)
    assert logged[0] != pytest.approx(logged[1], rel=1e-4)


# The classifier that a file keeps


def with_classifier(kind: type[Callback], path: Path, **options: Any) -> Callback:
    few = {"steps": (1, 2)} if kind is SampleSteps else {}
    return kind(num_samples=20, cache=str(path), **{"epochs": 1, **few, **options})


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a second classifier is trained")


@pytest.mark.parametrize("kind", [ClassifierFrechet, SampleSteps])
def test_kept_classifier_gives_the_same_distances_without_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Callback]
) -> None:
    callback = with_classifier(kind, tmp_path / "kept/classifier.pt")
    first = metrics_of(tmp_path, callback)
    monkeypatch.setattr(vaebm.callbacks.class_features, "train_classifier", refuse)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["classifier.pt"]
    assert metrics_of(tmp_path, callback) == first


def test_classifier_is_trained_each_time_without_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics_of(tmp_path, ClassifierFrechet(20, epochs=1))
    monkeypatch.setattr(vaebm.callbacks.class_features, "train_classifier", refuse)
    with pytest.raises(AssertionError, match="second classifier"):
        metrics_of(tmp_path, ClassifierFrechet(20, epochs=1))


def other_epochs(path: Path, folder: Path) -> None:
    metrics_of(folder, with_classifier(ClassifierFrechet, path, epochs=2))


def other_images(path: Path, folder: Path) -> None:
    metrics_of(folder, with_classifier(ClassifierFrechet, path), Bars(num_train=96))


def other_callback(path: Path, folder: Path) -> None:
    metrics_of(folder, with_classifier(SampleSteps, path, epochs=2))


@pytest.mark.parametrize("other", [other_epochs, other_images, other_callback])
def test_kept_classifier_of_something_else_is_refused_in_one_line(
    tmp_path: Path, other: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "classifier.pt"
    metrics_of(tmp_path, with_classifier(ClassifierFrechet, path))
    with pytest.raises(DataError, match=r"other images or epochs .* name another cache") as caught:
        other(path, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no file of torch", b""])
def test_damaged_cache_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "classifier.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"classifier\.pt") as caught:
        metrics_of(tmp_path, with_classifier(ClassifierFrechet, path))
    assert "\n" not in str(caught.value)


# Samples against the number of steps


def test_sample_steps_logs_distance_and_energy_of_each_number(tmp_path: Path) -> None:
    logged = metrics_of(tmp_path, SampleSteps((4, 1), num_samples=20, epochs=1))
    names = {name for name in logged if "steps" in name or "data" in name}
    assert names == {
        "test/frechet_steps_1", "test/energy_steps_1", "test/frechet_steps_4",
        "test/energy_steps_4", "test/energy_data",
    }  # fmt: skip


def test_sample_steps_logs_the_energies_of_its_samples(tmp_path: Path) -> None:
    callback, stage = SampleSteps((1, 4), num_samples=20, epochs=1), digits_stage()
    logged = metrics_of(tmp_path, callback)
    with torch.no_grad():
        for steps, images in callback.samples(stage).items():
            expected = float(stage.energy(images).mean())
            assert logged[f"test/energy_steps_{steps}"] == pytest.approx(expected, rel=1e-5)
        data = float(stage.energy(Bars().parts.test[:][0]).mean())
    assert logged["test/energy_data"] == pytest.approx(data, rel=1e-5)


def test_sample_steps_writes_what_it_logs(tmp_path: Path) -> None:
    logged = metrics_of(tmp_path, SampleSteps((4, 1), num_samples=20, epochs=1))
    with (tmp_path / "sample_steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["steps"] for row in rows] == ["1", "4"]
    for row in rows:
        for column in ("frechet", "energy"):
            expected = logged[f"test/{column}_steps_{row['steps']}"]
            assert float(row[column]) == pytest.approx(expected, rel=1e-5)
        assert float(row["energy_data"]) == pytest.approx(logged["test/energy_data"], rel=1e-5)


def test_sample_steps_draws_a_picture(tmp_path: Path) -> None:
    metrics_of(tmp_path, SampleSteps((1, 2), num_samples=20, epochs=1))
    with Image.open(tmp_path / "sample_steps.png") as image:
        assert image.format == "PNG"
        assert len(image.convert("L").histogram()) - image.convert("L").histogram().count(0) > 2


def samples(*steps: int, **options: Any) -> dict[int, Tensor]:
    return SampleSteps(steps, **{"num_samples": 6, **options}).samples(digits_stage())


def test_stops_in_between_do_not_change_a_chain() -> None:
    found = samples(2, 4)
    assert torch.equal(samples(4)[4], found[4])
    assert not torch.equal(found[2], found[4])


def test_samples_of_all_batches_are_there_and_differ() -> None:
    images = samples(1, num_samples=7, batch_size=3)[1]
    assert images.shape == (7, 1, 8, 8)
    assert len(images.flatten(1).unique(dim=0)) == 7


def test_sample_steps_refuses_stage_1(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, SampleSteps((1,), num_samples=20, epochs=1))
    stage = VAEStage(ConvVAE(latent_dim=2, channels=4))
    with pytest.raises(UsageError, match="SampleSteps is for stage 2"):
        trainer.test(stage, Bars(), verbose=False)


def test_sample_steps_refuses_data_without_labels(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, SampleSteps((1,), num_samples=20, epochs=1))
    with pytest.raises(UsageError, match="need labelled images"):
        trainer.test(ebm_stage(), toy_data(), verbose=False)


@pytest.mark.parametrize(
    "options", [{"steps": ()}, {"steps": (5, 0)}, {"num_samples": 1}, {"batch_size": 0}]
)
def test_sample_steps_refuses_impossible_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="SampleSteps needs"):
        SampleSteps(**options)
