"""Loaders: orders that depend on the epoch alone, positions that can be restored, bad data."""

import pytest
import torch
from torch.utils.data import Dataset

from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import (
    Batch,
    ByteImages,
    EpochSampler,
    ResumableDataLoader,
    Splits,
    Tensors,
    unit_interval,
)
from vaebm.errors import DataError, UsageError


class Points(ImageDataModule):
    """Given points in all three parts."""

    def __init__(self, points: torch.Tensor, batch_size: int = 4) -> None:
        super().__init__(batch_size, num_workers=0)
        self.points = points

    def splits(self) -> Splits:
        """The same points three times."""
        return Splits(*(Tensors(self.points) for _ in range(3)))


@pytest.fixture
def data() -> Points:
    return Points(torch.arange(10.0)[:, None])


def numbers(batches: object) -> list[list[float]]:
    return [batch[0].flatten().tolist() for batch in batches]  # type: ignore[attr-defined]


def test_epoch_sampler_gives_every_item_once() -> None:
    assert sorted(EpochSampler(10, seed=1)) == list(range(10))


def test_epoch_sampler_repeats_the_order_of_an_epoch() -> None:
    first, second = EpochSampler(10, seed=1), EpochSampler(10, seed=1)
    list(first)  # an order that was drawn before does not matter
    first.set_epoch(3)
    second.set_epoch(3)
    assert list(first) == list(second)


def test_epoch_sampler_changes_the_order_with_the_epoch() -> None:
    sampler = EpochSampler(10, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_epoch_sampler_changes_the_order_with_the_seed() -> None:
    assert list(EpochSampler(10, seed=1)) != list(EpochSampler(10, seed=2))


def test_numbers_that_count_on_tell_the_epoch_and_the_item() -> None:
    sampler, counting = EpochSampler(10, seed=1), EpochSampler(10, seed=1, counts_on=True)
    sampler.set_epoch(3)
    counting.set_epoch(3)
    assert list(counting) == [30 + item for item in sampler]


@pytest.mark.parametrize(("draws_anew", "first"), [(True, 10), (False, 0)])
def test_training_numbers_count_on_where_items_are_drawn_anew(
    data: Points, draws_anew: bool, first: int
) -> None:
    data.draws_anew = draws_anew
    sampler = data.train_dataloader().sampler
    sampler.set_epoch(1)  # type: ignore[attr-defined]
    assert min(sampler) == first


def test_bytes_become_exact_fractions_of_255() -> None:
    expected = torch.tensor([k / 255 for k in range(256)], dtype=torch.float32)
    assert torch.equal(unit_interval(torch.arange(256, dtype=torch.uint8)), expected)


def test_byte_images_come_as_floats_with_their_labels() -> None:
    part = ByteImages(torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor([7, 8, 9]))
    image, label = part.__getitems__([2, 1])
    assert torch.equal(image, torch.tensor([1, 51 / 255]))
    assert label.tolist() == [9, 8]


def test_byte_images_stay_bytes_in_memory() -> None:
    part = ByteImages(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert torch.equal(part[:][0], part[:][0])
    assert part.tensors[0].tolist() == [0, 51, 255]


def test_whole_batches_are_indexed_at_once() -> None:
    images, labels = Tensors(torch.arange(6.0), torch.arange(6)).__getitems__([4, 1])
    assert (images.tolist(), labels.tolist()) == ([4.0, 1.0], [4, 1])


def test_loader_goes_on_from_a_restored_position(data: Points) -> None:
    whole = numbers(data.val_dataloader())
    loader = data.val_dataloader()
    loader.load_state_dict({"position": 2})
    assert numbers(loader) == whole[2:]


def test_loader_is_whole_again_in_the_epoch_after_a_restored_one(data: Points) -> None:
    loader = data.val_dataloader()
    loader.load_state_dict({"position": 2})
    list(loader)
    assert numbers(loader) == numbers(data.val_dataloader())


def test_loader_counts_the_batches_it_gave_out(data: Points) -> None:
    loader = data.val_dataloader()
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    assert loader.state_dict() == {"position": 2}


def test_restored_loader_counts_from_its_position(data: Points) -> None:
    loader = data.val_dataloader()
    loader.load_state_dict({"position": 1})
    next(iter(loader))
    assert loader.state_dict() == {"position": 2}


def test_position_at_the_end_of_an_epoch_starts_the_next_one(data: Points) -> None:
    loader = data.val_dataloader()
    loader.load_state_dict({"position": len(loader)})
    assert len(numbers(loader)) == len(loader)


def test_training_batches_are_all_full(data: Points) -> None:
    assert [len(batch) for batch in numbers(data.train_dataloader())] == [4, 4]


def test_evaluation_keeps_the_order_and_the_rest(data: Points) -> None:
    expected = [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0]]
    assert numbers(data.test_dataloader()) == expected


def test_training_order_is_that_of_the_run_seed(
    data: Points, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    for seed in ("1", "1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        orders.append(numbers(data.train_dataloader()))
    assert orders[0] == orders[1] != orders[2]


def test_loaders_are_resumable(data: Points) -> None:
    assert isinstance(data.train_dataloader(), ResumableDataLoader)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_that_are_not_finite_are_refused(value: float) -> None:
    points = torch.zeros(8, 1)
    points[3] = points[5] = value
    with pytest.raises(DataError, match="2 of 8 train items of Points hold NaN or infinity"):
        Points(points).setup("fit")


def test_bytes_are_not_searched_for_nan() -> None:
    # Only a view of one byte: whatever touches all of them runs out of memory.
    Points(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(2**33, 3, 32, 32)).setup("fit")


class Damaged(Dataset[Batch]):
    """Its second item cannot be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Batch:
        if index == 1:
            raise DataError("item 1: of no use")
        return (torch.zeros(1),)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damaged_item_is_one_line_also_from_a_worker(num_workers: int) -> None:
    loader = ResumableDataLoader(Damaged(), batch_size=2, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "item 1: of no use"


def test_empty_data_are_refused() -> None:
    with pytest.raises(DataError, match="train part of Points is empty"):
        Points(torch.empty(0, 1)).setup("fit")


def test_batch_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size is 0"):
        Points(torch.zeros(8, 1), batch_size=0)


def test_batch_that_the_training_data_cannot_fill_is_refused() -> None:
    with pytest.raises(UsageError, match="batch_size 9 exceeds the 8 training images"):
        Points(torch.zeros(8, 1), batch_size=9).setup("fit")


def test_evaluation_accepts_a_batch_larger_than_the_training_data() -> None:
    Points(torch.zeros(8, 1), batch_size=9).setup("test")
