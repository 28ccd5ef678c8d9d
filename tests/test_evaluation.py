"""Figures of a test do not depend on how images are put into batches."""

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from tests.callbacks.test_chain_report import metrics_of
from tests.runs import overlay, run, trained
from vaebm.evaluation import batches, image_numbers


@pytest.mark.parametrize("size", [1, 3, 20])
@pytest.mark.parametrize(("total", "world"), [(7, 1), (7, 2), (9, 4), (1, 3)])
def test_numbers_are_those_of_the_images_and_padding_comes_after_them(
    total: int, world: int, size: int
) -> None:
    images, numbers = [], []
    for rank in range(world):
        data: Any = range(total)
        sampler = DistributedSampler(data, world, rank, shuffle=False)
        loader: DataLoader[Any] = DataLoader(data, size, sampler=sampler)
        for batch_idx, batch in enumerate(loader):
            images += batch.tolist()
            numbers += image_numbers(loader, batch_idx, len(batch))
    assert sorted(numbers) == list(range(len(images)))
    of_numbers = dict(zip(numbers, images, strict=True))
    assert [of_numbers[n] for n in range(total)] == list(range(total))


@pytest.mark.parametrize("command", ["test", "validate"])
@pytest.mark.parametrize("stage", ["vae", "ebm"])
def test_figures_do_not_depend_on_the_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, command: str
) -> None:
    found = []
    for size in (100, 7):
        folder = tmp_path / str(size)
        folder.mkdir()
        data = {"batch_size": size, "num_train": 600, "num_test": 100}
        whole = {"enable_progress_bar": False, "limit_val_batches": 1.0, "callbacks": []}
        settings = {"data": {"init_args": data}, "trainer": whole}
        small = overlay(folder / "small.yaml", settings)
        options = ("--config", f"gaussians25_{stage}", "--config", small)
        with chdir(folder):
            result = run(capsys, command, *options, "--ckpt_path", getattr(trained(), stage))
        assert (result.code, result.errors) == (0, [])
        figures = metrics_of(folder)
        figures.pop("val/energy_gap", None)  # is that of the first batch
        found.append(figures)
    assert found[0]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "kept"), [(1, 1), (1.0, 1.0), (0.5, 0.5), (3, 3), ("null", None)]
)
def test_one_batch_is_not_all_batches(
    capsys: pytest.CaptureFixture[str], given: object, kept: object
) -> None:
    limit = f"--trainer.limit_val_batches={given}"
    result = run(capsys, "fit", "--config", "gaussians25_vae", limit, "--print_config")
    (line,) = (line for line in result.out.splitlines() if "limit_val_batches" in line)
    assert line.split(": ")[1] == str("null" if kept is None else kept)


@pytest.mark.parametrize(
    ("total", "size", "world"), [(10, 4, 1), (10, 4, 3), (2, 100, 2), (6, 100, 4), (9, 2, 8)]
)
def test_batches_are_everything_once_and_there_is_one_for_each_process(
    total: int, size: int, world: int
) -> None:
    found = batches(total, size, world)
    assert [number for batch in found for number in batch] == list(range(total))
    assert len(found) >= world
    assert max(map(len, found)) <= size


def test_batches_are_those_of_one_process_where_all_have_one() -> None:
    assert batches(21, 5, 4) == batches(21, 5, 1)
