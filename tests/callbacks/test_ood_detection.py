"""Images of other sets: how they are made, and what a test says of them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import Tensor

from tests.colours import Colours, stage
from tests.training import ebm_stage, small_trainer, toy_data
from vaebm.callbacks import OODDetection
from vaebm.callbacks.outside import chosen_images, fit_colours, synthetic_images
from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.errors import UsageError
from vaebm.metrics import auroc
from vaebm.noise import RowGenerators, generator_for
from vaebm.spaces import DataSpace
from vaebm.stage import Stage
from vaebm.vae_stage import VAEStage


class Greys(ImageDataModule):
    """Dark grey images of S×S pixels."""

    def __init__(self, side: int = 8) -> None:
        super().__init__(7, 0)
        self.side = side

    def splits(self) -> Splits:
        """The same images in all parts."""
        image = 0.2 * torch.rand(21, 1, self.side, self.side, generator=generator_for(3))
        return Splits(*(Tensors(image) for _ in range(3)))


def figures(folder: Path, model: Stage | None = None, **options: Any) -> dict[str, float]:
    """What a test logs under ``test/``."""
    trainer = small_trainer(folder, OODDetection(**options))
    trainer.test(model or stage(), Colours(), verbose=False)
    logged = trainer.callback_metrics
    return {name.removeprefix("test/"): float(value) for name, value in logged.items()}


def log_h(images: Tensor) -> Tensor:
    """Up to log Z, with the noise of the callback."""
    generator = RowGenerators(1, range(len(images)))
    with torch.no_grad():
        terms = stage().eval().log_likelihood(images, generator)
    return terms["elbo_minus_energy"].double()


def test_areas_are_those_of_the_models_figures(tmp_path: Path) -> None:
    found = figures(tmp_path, datasets={"greys": Greys()}, num_images=30, batch_size=7)
    inside = log_h(chosen_images(Colours().parts.test, 30, 1))
    outside = log_h(chosen_images(Greys().parts.test, 30, 1).expand(-1, 3, -1, -1))
    area, error = auroc(inside, outside)
    assert found["auroc_greys"] == pytest.approx(float(area), abs=1e-6)
    assert found["auroc_greys_error"] == pytest.approx(float(error), abs=1e-6)
    train = log_h(chosen_images(Colours().parts.train, 30, 1))
    fit = ks_2samp(train.numpy(), inside.numpy())
    assert found["ks_train_test"] == pytest.approx(fit.statistic, abs=1e-6)
    assert found["ks_train_test_pvalue"] == pytest.approx(fit.pvalue, rel=1e-4)


def test_every_set_has_an_area_of_each_score(tmp_path: Path) -> None:
    found = figures(tmp_path, datasets={"greys": Greys()}, num_images=30)
    names = ("greys", "interpolations", "noise", "constants")
    expected = {f"auroc_{kind}{name}" for kind in ("", "energy_", "elbo_") for name in names}
    areas = {name for name in found if name.startswith("auroc") and not name.endswith("_error")}
    assert areas == expected
    assert {f"{name}_error" for name in expected} < set(found)


def test_stage_1_has_its_bound_and_an_energy_on_x_its_energy(tmp_path: Path) -> None:
    found = figures(tmp_path, VAEStage(stage().vae), synthetic=["noise"])
    assert found["auroc_noise"] == found["auroc_elbo_noise"]
    assert "auroc_energy_noise" not in found
    on_x = stage()
    on_x.space = DataSpace()
    found = figures(tmp_path, on_x, synthetic=["noise"])
    assert found["auroc_noise"] == found["auroc_energy_noise"] != found["auroc_elbo_noise"]


def test_table_and_picture_are_written(tmp_path: Path) -> None:
    found = figures(tmp_path, num_images=30)
    with (tmp_path / "ood.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    first = rows[0]
    assert (first["dataset"], first["score"]) == ("interpolations", "log_h")
    assert float(first["auroc"]) == pytest.approx(found["auroc_interpolations"])
    assert Image.open(tmp_path / "ood.png").size[0] > 500


def test_interpolations_are_means_of_two_images() -> None:
    inside = torch.rand(9, 3, 8, 8)
    made = synthetic_images("interpolations", inside, generator_for(1))
    means = 0.5 * (inside[:, None] + inside)
    pairs = [(means == image).flatten(2).all(2).nonzero().tolist() for image in made]
    assert all(len(found) == 2 and found[0][0] != found[0][1] for found in pairs)
    assert len({tuple(found[0]) for found in pairs}) == 9


def test_noise_is_uniform_and_constants_have_one_colour() -> None:
    inside = torch.zeros(200, 3, 8, 8)
    noise = synthetic_images("noise", inside, generator_for(1))
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.std()) == pytest.approx(12**-0.5, abs=0.01)
    constants = synthetic_images("constants", inside, generator_for(1))
    assert torch.equal(constants, constants[:, :, :1, :1].expand_as(constants))
    assert len(constants[:, :, 0, 0].unique(dim=0)) == 200
    assert float(constants[:, :, 0, 0].std()) == pytest.approx(12**-0.5, abs=0.02)


def test_images_are_chosen_at_random_and_always_the_same() -> None:
    part = Colours().parts.train
    first, again, other = (chosen_images(part, 20, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, part[:20][0])
    assert len(chosen_images(part, 1000, 1)) == 63


def test_grey_images_become_colours_and_others_are_refused() -> None:
    grey = torch.rand(2, 1, 8, 8)
    assert torch.equal(fit_colours(grey, (3, 8, 8), "x"), grey.expand(-1, 3, -1, -1))
    for shape in ((1, 8, 8), (3, 16, 16)):
        message = rf"images of x are \(3, 8, 8\), the model is made for \({shape[0]}, "
        with pytest.raises(UsageError, match=message):
            fit_colours(torch.rand(2, 3, 8, 8), shape, "x")


def test_set_of_another_size_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images of greys are"):
        figures(tmp_path, datasets={"greys": Greys(side=16)})


def test_too_few_images_are_refused_before_any_work(tmp_path: Path) -> None:
    class One(Greys):
        def splits(self) -> Splits:
            return Splits(*(Tensors(torch.zeros(1, 1, 8, 8)) for _ in range(3)))

    with pytest.raises(UsageError, match="fewer than 2 images of one are too few to compare"):
        figures(tmp_path, datasets={"one": One()})


def test_training_and_sampling_take_no_notice_of_it(tmp_path: Path) -> None:
    broken = OODDetection(datasets={"greys": Greys(side=16)})
    small_trainer(tmp_path, broken, max_steps=1).fit(stage(), Colours())


def test_points_and_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="OODDetection is for images"):
        small_trainer(tmp_path, OODDetection()).test(ebm_stage(), toy_data(), verbose=False)
    loader = Colours().test_dataloader()
    with pytest.raises(UsageError, match="needs a datamodule and a stage of vaebm"):
        small_trainer(tmp_path, OODDetection()).test(stage(), loader, verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic": ["x"]}, "synthetic sets are interpolations, noise, constants"),
        ({"num_images": 1}, "num_images ≥ 2"),
        ({"batch_size": 0}, "batch_size ≥ 1"),
        ({"datasets": {"noise": Greys()}}, "noise cannot be the name of another data set"),
        ({"datasets": {"train": Greys()}}, "train cannot be the name of another data set"),
    ],
)
def test_argument_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OODDetection(**options)


SCRIPT = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from tests.colours import Colours, stage
from vaebm.callbacks import OODDetection
folder = Path(sys.argv[1])
trainer = Trainer(
    default_root_dir=folder, accelerator="cpu", devices=2, strategy="ddp", logger=False,
    enable_progress_bar=False, callbacks=[OODDetection(num_images=31, batch_size=5)],
)
trainer.test(stage(), Colours(), verbose=False)
found = {name: float(value) for name, value in trainer.callback_metrics.items()}
(folder / f"{trainer.global_rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_two_processes_share_the_images_and_get_the_same_figures(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "script.py", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=300,
    )
    expected = figures(tmp_path / "one", num_images=31)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, value in expected.items():
            if "auroc" in name or "ks" in name:
                assert found[f"test/{name}"] == pytest.approx(value, abs=1e-6)
