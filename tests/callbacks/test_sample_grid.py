"""Pictures of samples: in the log folder and at the loggers that take them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from PIL import Image

from tests.training import ebm_stage, small_trainer, toy_data
from vaebm.callbacks import SampleGrid
from vaebm.callbacks.sample_grid import first_images
from vaebm.errors import UsageError


class PictureLogger(DummyLogger):
    """A logger with W&B's method for pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[str, list[Any], int]] = []

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        """Remember a picture."""
        self.logged.append((key, images, step))


class Board:
    """TensorBoard's writer."""

    def __init__(self) -> None:
        self.added: list[tuple[Any, ...]] = []

    def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
        """Remember a picture."""
        self.added.append((tag, image.shape[-1], step, dataformats))


class BoardLogger(Logger):
    """A logger with TensorBoard's writer."""

    name = version = "board"

    def __init__(self) -> None:
        super().__init__()
        self.experiment = Board()

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Forget numbers."""

    def log_hyperparams(self, params: Any) -> None:
        """Forget settings."""


def train(folder: Path, callback: SampleGrid, **options: Any) -> None:
    """Train for two epochs with a validation after each."""
    defaults: dict[str, Any] = {
        "max_steps": 8, "limit_val_batches": 1, "num_sanity_val_steps": 1,
    }  # fmt: skip
    trainer = small_trainer(folder, callback, **(defaults | options))
    trainer.fit(ebm_stage(), toy_data())


def pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").glob("*"))


def test_picture_is_written_after_every_validation(tmp_path: Path) -> None:
    train(tmp_path, SampleGrid(20))
    assert pictures(tmp_path) == ["step=0000004.png", "step=0000008.png"]


def test_picture_is_written_after_every_second_validation_when_asked(tmp_path: Path) -> None:
    train(tmp_path, SampleGrid(20, every_n_validations=2))
    assert pictures(tmp_path) == ["step=0000008.png"]


def test_picture_is_written_after_a_test(tmp_path: Path) -> None:
    small_trainer(tmp_path, SampleGrid(20)).test(ebm_stage(), toy_data(), verbose=False)
    assert pictures(tmp_path) == ["test.png"]


def test_picture_is_a_png_with_content(tmp_path: Path) -> None:
    small_trainer(tmp_path, SampleGrid(20)).test(ebm_stage(), toy_data(), verbose=False)
    with Image.open(tmp_path / "samples/test.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("L")))) > 2


def test_logger_with_log_image_gets_the_picture(tmp_path: Path) -> None:
    logger = PictureLogger()
    train(tmp_path, SampleGrid(20), logger=logger)
    assert [(key, step) for key, _, step in logger.logged] == [("samples", 4), ("samples", 8)]


def test_logger_gets_rgb_bytes(tmp_path: Path) -> None:
    logger = PictureLogger()
    train(tmp_path, SampleGrid(20), logger=logger)
    (pixels,) = logger.logged[0][1]
    assert (pixels.dtype, pixels.shape[-1]) == (np.uint8, 3)


def test_tensorboard_gets_the_picture(tmp_path: Path) -> None:
    logger = BoardLogger()
    train(tmp_path, SampleGrid(20), logger=logger)
    assert logger.experiment.added == [("samples", 3, 4, "HWC"), ("samples", 3, 8, "HWC")]


def test_pictures_leave_the_training_unchanged(tmp_path: Path) -> None:
    weights = []
    for callback in ([], [SampleGrid(20)]):
        torch.manual_seed(0)
        stage = ebm_stage()
        trainer = small_trainer(tmp_path, *callback, limit_val_batches=1)
        trainer.fit(stage, toy_data())
        weights.append(torch.nn.utils.parameters_to_vector(stage.energy.parameters()))
    assert torch.equal(*weights)


def test_first_images_cross_batches() -> None:
    batches = [torch.arange(3.0)[:, None], torch.arange(3.0, 6.0)[:, None]]
    assert first_images(batches, 5).flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0)])
def test_number_below_one_is_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="≥ 1"):
        SampleGrid(*arguments)
