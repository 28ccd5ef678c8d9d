"""The classifier's stage: it learns, resumes as if uninterrupted, and refuses other data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.runs import overlay, run
from tests.training import same_weights, saver, small_trainer
from vaebm.classifier_stage import ClassifierStage, shifted
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.errors import Diverged, UsageError
from vaebm.noise import generator_for

SMALL = {"model": {"init_args": {"image_shape": [1, 8, 8]}}}


class Halves(ImageDataModule):
    """Noisy images of 8×8 pixels whose brighter half is the label.

    Args:
        side: Height and width.
    """

    def __init__(self, side: int = 8) -> None:
        super().__init__(16, 0)
        self.side = side

    def splits(self) -> Splits:
        """Fixed random images."""
        return Splits(*(self.part(seed) for seed in range(3)))

    def part(self, seed: int) -> Tensors:
        """64 images."""
        image = 0.3 * torch.rand(64, 1, self.side, self.side, generator=generator_for(seed))
        label = torch.arange(64) % 2
        image[label == 1, :, : self.side // 2] += 0.5
        image[label == 0, :, self.side // 2 :] += 0.5
        return Tensors(image, label)


class NoLabels(Halves):
    """The same without labels."""

    def part(self, seed: int) -> Tensors:
        """Images alone."""
        return Tensors(super().part(seed).tensors[0])


def stage(**options: Any) -> ClassifierStage:
    torch.manual_seed(1)
    return ClassifierStage([1, 8, 8], 2, **{"seed": 3} | options)


def test_it_learns_and_logs_its_accuracy(tmp_path: Path) -> None:
    model, data = stage(), Halves()
    trainer = small_trainer(tmp_path, max_steps=40, limit_val_batches=1.0)
    trainer.test(model, data, verbose=False)
    before = float(trainer.callback_metrics["test/accuracy"])
    trainer.fit(model, data)
    assert float(trainer.callback_metrics["val/accuracy"]) == 1
    trainer.test(model, data, verbose=False)
    assert before < float(trainer.callback_metrics["test/accuracy"]) == 1


def test_accuracy_is_over_images_not_batches(tmp_path: Path) -> None:
    model, data = stage(), Halves()
    data.batch_size = 30  # 30, 30 and 4 images
    trainer = small_trainer(tmp_path)
    trainer.test(model, data, verbose=False)
    image, label = data.parts.test[:]
    expected = (model(image).argmax(1) == label).float().mean()
    assert float(trainer.callback_metrics["test/accuracy"]) == pytest.approx(float(expected))
    (first, *_) = trainer.predict(model, data)  # type: ignore[misc]
    assert torch.equal(first["label"], model(image[:30]).argmax(1))


def test_resumed_training_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, resumed = stage(), stage()
    small_trainer(tmp_path, saver(tmp_path, 3), max_steps=6).fit(whole, Halves())
    torch.manual_seed(9)
    trainer = small_trainer(tmp_path / "b", max_steps=6)
    trainer.fit(resumed, Halves(), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
    assert same_weights(whole.state_dict(), resumed.state_dict())


def test_training_can_go_on_for_longer(tmp_path: Path) -> None:
    small_trainer(tmp_path, saver(tmp_path, 3), max_steps=3).fit(stage(), Halves())
    trainer = small_trainer(tmp_path, max_steps=9)
    trainer.fit(stage(), Halves(), ckpt_path=tmp_path / "step=3.ckpt", weights_only=True)
    assert trainer.global_step == 9


def test_images_are_shifted_by_up_to_the_largest_shift() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    places = {
        tuple(shifted(image, 2, generator_for(seed))[0, 0].nonzero()[0].tolist())
        for seed in range(300)
    }
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert torch.equal(shifted(image, 0, generator_for(0)), image)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (NoLabels(), "needs labelled images"),
        (
            Halves(16),
            r"data are of shape \(1, 16, 16\), but the classifier is made for \(1, 8, 8\)",
        ),
    ],
)
def test_other_data_are_refused(tmp_path: Path, data: ImageDataModule, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small_trainer(tmp_path).fit(stage(), data)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    data = Halves()
    data.parts.train.tensors[1][5] = 7  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="label 7 is none of 2 classes"):
        small_trainer(tmp_path).fit(stage(), data)


def test_training_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs trainer\.max_steps or max_epochs"):
        small_trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(stage(), Halves())


def test_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    class Broken(ClassifierStage):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * torch.nan

    with pytest.raises(Diverged, match="the loss of step 0 is nan: lower lr"):
        small_trainer(tmp_path).fit(Broken([1, 8, 8], 2), Halves())


@pytest.mark.parametrize(
    "options",
    [{"image_shape": [8, 8]}, {"image_shape": [1, 7, 8]}, {"num_classes": 1}, {"max_shift": -1}],
)
def test_argument_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="ClassifierStage needs an image_shape"):
        ClassifierStage(**{"image_shape": [1, 8, 8], "num_classes": 2} | options)


def test_command_line_trains_tests_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = {"image_shape": [1, 8, 8]}
    small = overlay(
        tmp_path / "small.yaml",
        {"model": {"init_args": model}, "trainer": {"max_epochs": 2, "enable_progress_bar": False}},
    )
    digits = ("--data", "DigitsDataModule")
    fit = ("fit", "--config", "mnist_classifier", "--config", small, *digits)
    assert run(capsys, *fit).code == 0
    (last,) = tmp_path.rglob("last.ckpt")
    tested = run(capsys, "test", "--ckpt_path", last, *digits, "--trainer.logger", "false")
    assert tested.code == 0
    assert "test/accuracy" in tested.out
    sampled = run(capsys, "sample", "--ckpt_path", last)
    assert (sampled.code, len(sampled.errors)) == (2, 1)
