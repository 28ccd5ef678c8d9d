"""Mirror images in training: half of them, reproducible, also after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import Dataset

from tests.training import saver, small_trainer
from vaebm.datamodules.base import Batch, Splits
from vaebm.datamodules.photos import PhotoDataModule, mirror_some
from vaebm.noise import generator_for

SIZE = 2 * 5  # five batches an epoch


class Numbered(Dataset[Batch]):
    """Images of two pixels: the number that was asked for, then -1."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, number: int) -> Batch:
        return torch.tensor([float(number), -1.0]).view(1, 1, 2), torch.tensor(number)


class NumberedPhotos(PhotoDataModule):
    """Numbered images in all three parts; those to train on count on from epoch to epoch."""

    draws_anew = True

    def __init__(self, flip: bool = True, num_workers: int = 0) -> None:
        super().__init__("nowhere", 2, flip, num_workers)

    def splits(self) -> Splits:
        """The same images three times."""
        return Splits(Numbered(), Numbered(), Numbered())


class Recorder(LightningModule):
    """Keeps the images that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Keep a training batch."""
        self.seen["train"].append(batch[0].flatten(1).tolist())
        return self.weight.square()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep a validation batch."""
        self.seen["val"].append(batch[0].flatten(1).tolist())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep a test batch."""
        self.seen["test"].append(batch[0].flatten(1).tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def rows(self, part: str) -> list[list[float]]:
        """All images of a part."""
        return [row for batch in self.seen[part] for row in batch]


def fit(
    folder: Path,
    data: NumberedPhotos,
    *callbacks: Any,
    ckpt_path: str | None = None,
    **options: Any,
) -> Recorder:
    """Train and record."""
    recorder = Recorder()
    trainer = small_trainer(folder, *callbacks, **options)
    trainer.fit(recorder, datamodule=data, ckpt_path=ckpt_path)
    return recorder


def flipped(rows: list[list[float]]) -> list[bool]:
    return [row[0] == -1 for row in rows]


def test_mirrored_image_is_the_image_from_right_to_left() -> None:
    image = torch.arange(32 * 12.0).view(32, 2, 2, 3)
    result = mirror_some(image, generator_for(1))
    for before, after in zip(image, result, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before[..., [2, 1, 0]])


def test_about_half_the_images_are_mirrored() -> None:
    image = torch.tensor([0.0, 1.0]).expand(100_000, 1, 1, 2)
    mirrored = int(mirror_some(image, generator_for(1))[:, 0, 0, 0].sum())
    assert abs(mirrored - 50_000) < 5 * 158  # five standard deviations


def test_training_images_are_mirrored_and_others_are_not(tmp_path: Path) -> None:
    data = NumberedPhotos()
    recorder = fit(tmp_path, data, max_steps=10, limit_val_batches=5, num_sanity_val_steps=1)
    small_trainer(tmp_path).test(recorder, datamodule=data, verbose=False)
    assert set(flipped(recorder.rows("train"))) == {True, False}
    assert len(recorder.rows("val")) == 2 + 2 * SIZE
    assert not any(flipped(recorder.rows("val") + recorder.rows("test")))


def test_training_after_validation_is_mirrored_again(tmp_path: Path) -> None:
    recorder = fit(
        tmp_path, NumberedPhotos(), max_steps=10, limit_val_batches=1, val_check_interval=1
    )
    assert any(flipped(recorder.rows("train")[SIZE:]))


def test_flip_off_leaves_training_images_alone(tmp_path: Path) -> None:
    recorder = fit(tmp_path, NumberedPhotos(flip=False), max_steps=10)
    assert not any(flipped(recorder.rows("train")))


def test_epochs_differ_in_what_is_mirrored(tmp_path: Path) -> None:
    rows = fit(tmp_path, NumberedPhotos(), max_steps=10).rows("train")
    mirrored = [
        {max(row) % SIZE for row in part if row[0] == -1} for part in (rows[:10], rows[10:])
    ]
    assert mirrored[0] != mirrored[1]


def test_images_outside_a_trainer_are_left_alone() -> None:
    batch = (torch.rand(64, 1, 2, 2),)
    assert NumberedPhotos().on_after_batch_transfer(batch, 0) is batch


def choice_of(rank: int, batch_idx: int) -> list[float]:
    """What is mirrored on a rank in a batch."""
    data = NumberedPhotos()
    loop = SimpleNamespace(total_batch_idx=batch_idx - 1)
    data.trainer = SimpleNamespace(training=True, global_rank=rank, fit_loop=loop)  # type: ignore[assignment]
    image = torch.tensor([0.0, 1.0]).expand(64, 1, 1, 2)
    choice: list[float] = data.on_after_batch_transfer((image,), 0)[0][:, 0, 0, 0].tolist()
    return choice


def test_mirroring_depends_on_seed_rank_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = [choice_of(0, 0), choice_of(1, 0), choice_of(0, 1)]
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    choices.append(choice_of(0, 0))
    assert len({tuple(choice) for choice in choices}) == 4
    assert choice_of(0, 0) == choices[-1]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_resumed_training_sees_the_batches_of_an_uninterrupted_one(
    tmp_path: Path, step: int, accumulate: int
) -> None:
    options = {"max_steps": 8, "accumulate_grad_batches": accumulate}
    whole = fit(tmp_path, NumberedPhotos(), saver(tmp_path, 1), **options).seen["train"]
    [checkpoint] = tmp_path.glob(f"step={step}.ckpt")
    resumed = fit(tmp_path, NumberedPhotos(), ckpt_path=str(checkpoint), **options).seen["train"]
    assert 0 < len(resumed) < len(whole)
    assert resumed == whole[-len(resumed) :]


def test_worker_processes_change_no_batch(tmp_path: Path) -> None:
    recorders = [fit(tmp_path, NumberedPhotos(num_workers=n), max_steps=8) for n in (0, 2)]
    assert recorders[0].seen == recorders[1].seen
