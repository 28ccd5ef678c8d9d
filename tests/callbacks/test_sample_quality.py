"""FID, Inception score and KID of samples: right, cached, in time, alike on two processes."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vaebm.callbacks.reference
from tests.colours import Colours, stage
from tests.datamodules.pictures import picture
from tests.fidelity import SmallFeatures, published_figures, random_inception
from tests.training import ebm_stage, saver, small_trainer, toy_data
from vaebm.callbacks import SampleQuality
from vaebm.callbacks.reference import file_name
from vaebm.datamodules import ImageDataModule, ImageFolderDataModule
from vaebm.errors import DataError, UsageError
from vaebm.noise import RowGenerators
from vaebm.sampling import SampleLoop, SampleOptions

pytest.importorskip("torch_fidelity")

ALL = ("fid", "inception_score", "kid")
PUBLISHED = ("fid_51", "inception_score_51", "inception_score_std_51", "kid_51", "kid_std_51")


def quality(**options: Any) -> SampleQuality:
    """A measurement of 51 samples in small features, nothing kept."""
    defaults: dict[str, Any] = {
        "metrics": ALL,
        "num_samples": 51,
        "extractor": SmallFeatures(),
        "cache": None,
        "kid_subset_size": 30,
        "batch_size": 20,
    }
    return SampleQuality(**defaults | options)


def figures_of(
    folder: Path, callback: Callback, data: ImageDataModule | None = None
) -> dict[str, Any]:
    """What a test logs under ``test/``."""
    trainer = small_trainer(folder, callback)
    trainer.test(stage(), data or Colours(), verbose=False)
    logged = trainer.callback_metrics
    return {name.removeprefix("test/"): float(value) for name, value in logged.items()}


def samples(count: int, seed: int = 0, **options: Any) -> Tensor:
    """What `vaebm sample` draws from the stage."""
    return stage().eval().sample(count, generator=RowGenerators(seed, range(count)), **options)


@pytest.mark.parametrize("reference", ["train", "test"])
def test_figures_are_those_of_torch_fidelity(tmp_path: Path, reference: str) -> None:
    real = getattr(Colours().parts, reference)[:][0]
    expected = published_figures(samples(51), real, kid_subset_size=30)
    found = figures_of(tmp_path, quality(reference=reference))
    for name, value in expected.items():
        assert found[f"{name}_51"] == pytest.approx(value, rel=1e-6)


def test_options_of_samples_are_kept(tmp_path: Path) -> None:
    real = Colours().parts.train[:][0]
    expected = published_figures(samples(51, 3, num_steps=9), real, kid=False, isc=False)
    found = figures_of(tmp_path, quality(metrics=["fid"], sample_seed=3, num_steps=9))
    assert found["fid_51"] == pytest.approx(expected["fid"], rel=1e-6)
    assert not any("kid" in name or "score" in name for name in found)


def test_features_alone_are_enough_without_inception_score(tmp_path: Path) -> None:
    class Pooled(SmallFeatures):
        def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(image).pooled

    both = quality(metrics=["fid", "kid"], extractor=Pooled())
    assert figures_of(tmp_path, both)["fid_51"] == figures_of(tmp_path, quality())["fid_51"]
    with pytest.raises(UsageError, match="needs an extractor that gives logits of classes"):
        fitted(tmp_path, quality(extractor=Pooled(), every_n_steps=8))


@pytest.mark.slow
def test_inception_runs_offline_from_a_file_of_weights(tmp_path: Path) -> None:
    with random_inception() as weights:
        real = Colours().parts.test[:][0]
        options = {"feature_extractor": "inception-v3-compat", "kid_subset_size": 8}
        expected = published_figures(
            samples(13), real, **options, feature_extractor_weights_path=str(weights)
        )
        callback = quality(
            extractor=None,
            weights=str(weights),
            num_samples=13,
            kid_subset_size=8,
            reference="test",
        )
        found = figures_of(tmp_path, callback)
    for name, value in expected.items():
        # The library computes from float32 features in float32.
        assert found[f"{name}_13"] == pytest.approx(value, rel=1e-3)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the images of the real data whose features are computed."""
    counts: list[int] = []
    original = vaebm.callbacks.reference.features_of

    def count(extractor: nn.Module, images: Tensor) -> Any:
        counts.append(len(images))
        return original(extractor, images)

    monkeypatch.setattr(vaebm.callbacks.reference, "features_of", count)
    return counts


def test_real_statistics_come_from_the_cache(tmp_path: Path, counted: list[int]) -> None:
    first = figures_of(tmp_path, quality(cache=str(tmp_path / "cache")))
    assert sum(counted) == 63
    assert figures_of(tmp_path, quality(cache=str(tmp_path / "cache"))) == first
    assert sum(counted) == 63
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["data", "part", "network", "layer", "kept rows"])
def test_cache_is_of_one_data_set_part_and_network(
    tmp_path: Path, counted: list[int], change: str
) -> None:
    cache: dict[str, Any] = {"cache": str(tmp_path / "cache")}
    without_logits = {"metrics": ["fid", "kid"]}
    first = {"extractor": nn.Sequential(nn.MaxPool2d(4), nn.Flatten())} | without_logits
    figures_of(tmp_path, quality(**cache, **(first if change == "layer" else {})))
    other = SmallFeatures()
    other.weight += 1
    options: dict[str, Any] = {
        "layer": {"extractor": nn.Sequential(nn.AvgPool2d(4), nn.Flatten())} | without_logits,
        "part": {"reference": "test"},
        "network": {"extractor": other},
        "kept rows": {"metrics": ["fid"]},
    }.get(change, {})
    data = Colours(seed=1 if change == "data" else 0)
    changed = figures_of(tmp_path, quality(**cache, **options), data)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert changed == figures_of(tmp_path, quality(**options), data)


def test_batch_size_changes_neither_figures_nor_cache(tmp_path: Path) -> None:
    cache: dict[str, Any] = {"cache": str(tmp_path / "cache")}
    first = figures_of(tmp_path, quality(**cache))
    again = figures_of(tmp_path, quality(**cache, batch_size=51), Colours(batch_size=31))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert all(again[name] == pytest.approx(first[name], rel=1e-6) for name in PUBLISHED)


def test_changed_images_have_statistics_of_their_own(tmp_path: Path) -> None:
    cache: dict[str, Any] = {"cache": str(tmp_path / "cache")}
    data = Colours()
    first = figures_of(tmp_path, quality(**cache), data)
    data.parts.train.tensors[0][50] = 0  # none of those that stand for a set of unknown kind
    assert figures_of(tmp_path, quality(**cache), data)["fid_51"] != first["fid_51"]


def test_changed_files_have_statistics_of_their_own(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("test", 3)):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for seed in range(count):
            picture(8, 8, seed).save(tmp_path / "photos" / part / f"{seed:02}.png")
    data = ImageFolderDataModule(str(tmp_path / "photos"), image_size=8)
    name = file_name(data, "train", SmallFeatures(), 0)
    assert file_name(data, "train", SmallFeatures(), 0) == name
    assert file_name(data, "train", SmallFeatures().to(torch.bfloat16), 0) != name
    picture(8, 8, 99).save(tmp_path / "photos/train/17.png")
    assert file_name(data, "train", SmallFeatures(), 0) != name


def test_callback_can_be_used_again_with_other_data(tmp_path: Path) -> None:
    callback = quality(metrics=["fid"])
    found = [figures_of(tmp_path, callback, Colours(seed=seed))["fid_51"] for seed in (0, 1)]
    assert found[0] != found[1]
    assert found[1] == figures_of(tmp_path, quality(), Colours(seed=1))["fid_51"]


def test_damaged_cache_is_named(tmp_path: Path) -> None:
    cache: dict[str, Any] = {"cache": str(tmp_path / "cache")}
    figures_of(tmp_path, quality(**cache))
    (path,) = (tmp_path / "cache").iterdir()
    torch.save({"total": torch.zeros(3)}, path)
    with pytest.raises(DataError, match=f"^{path} holds no statistics of images: remove it$"):
        figures_of(tmp_path, quality(**cache))


def test_cache_that_cannot_be_written_is_no_reason_to_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    found = figures_of(tmp_path, quality(cache=str(tmp_path / "file/cache")))
    assert found["fid_51"] > 0
    assert "statistics of the real images are not kept: " in capsys.readouterr().out


class Watch(Callback):
    """Keeps what was logged under ``val/``, by step."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After every validation."""
        logged = {k: float(v) for k, v in trainer.callback_metrics.items() if "fid" in k}
        self.seen[trainer.global_step] = logged


def fitted(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A training with a validation after each two of eight steps."""
    settings = {"max_steps": 8, "limit_val_batches": 1, "val_check_interval": 2}
    settings |= {"check_val_every_n_epoch": None, "num_sanity_val_steps": 1}
    trainer = small_trainer(folder, *callbacks, **settings | options)
    trainer.fit(stage(), Colours())
    return trainer


def test_training_measures_every_so_many_steps(tmp_path: Path) -> None:
    watch = Watch()
    fitted(tmp_path, quality(metrics=["fid"], every_n_steps=3), watch)
    figures = [watch.seen[step].get("val/fid_51") for step in (2, 4, 6, 8)]
    # Due at 3 and 6: measured at the validations after 4 and 6 steps.
    assert figures[0] is None
    assert [first != second for first, second in pairwise(figures)] == [True, True, False]


def test_training_without_a_number_of_steps_measures_nothing(tmp_path: Path) -> None:
    watch = Watch()
    fitted(tmp_path, quality(), watch)
    assert not any(watch.seen.values())


def test_validate_measures(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, quality(metrics=["fid"]), limit_val_batches=1)
    trainer.validate(stage(), Colours(), verbose=False)
    assert (
        float(trainer.callback_metrics["val/fid_51"]) == figures_of(tmp_path, quality())["fid_51"]
    )


def test_measuring_changes_no_training(tmp_path: Path) -> None:
    with random_inception() as weights:
        small = {"num_samples": 10, "metrics": ["inception_score"], "every_n_steps": 8}
        callback = quality(extractor=None, weights=str(weights), **small)
        states = [
            fitted(tmp_path, *callbacks, accelerator="cpu").lightning_module.state_dict()
            for callbacks in ([], [callback])
        ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_are_measured(tmp_path: Path, first: bool) -> None:
    watch, average = Watch(), EMAWeightAveraging(decay=0.5)
    callback = quality(metrics=["fid"], every_n_steps=8)
    order = [callback, average] if first else [average, callback]
    trainer = fitted(tmp_path, *order, watch)
    model = trainer.lightning_module  # at the end of a training it has the averaged weights
    images = model.eval().sample(51, generator=RowGenerators(0, range(51)))
    real = Colours().parts.train[:][0]
    expected = published_figures(images, real, kid=False, isc=False)["fid"]
    assert watch.seen[8]["val/fid_51"] == pytest.approx(expected, rel=1e-5)


def test_resumed_training_measures_when_the_uninterrupted_one_would() -> None:
    callback, other = quality(every_n_steps=3), quality(every_n_steps=3)
    callback._measured = 2
    other.load_state_dict(json.loads(json.dumps(callback.state_dict())))
    assert other._measured == 2


def test_resumed_training_may_measure_at_other_steps(tmp_path: Path) -> None:
    watch, every_two = Watch(), quality(metrics=["fid"], every_n_steps=2)
    fitted(tmp_path, every_two, saver(tmp_path, 4), max_steps=4)
    every_four = quality(metrics=["fid"], every_n_steps=4)
    settings = {"max_steps": 8, "limit_val_batches": 1, "val_check_interval": 2}
    trainer = small_trainer(tmp_path, every_four, watch, check_val_every_n_epoch=None, **settings)
    trainer.fit(stage(), Colours(), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    # The checkpoint is from before the validation after four steps, which the next one stands for.
    assert {step for step, found in watch.seen.items() if found} == {6, 8}


def test_points_and_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="SampleQuality is for images"):
        small_trainer(tmp_path, quality()).test(ebm_stage(), toy_data(), verbose=False)
    loader = Colours().test_dataloader()
    with pytest.raises(UsageError, match="needs a datamodule and a stage of vaebm"):
        small_trainer(tmp_path, quality()).test(stage(), loader, verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["fid", "x"]}, "metrics are some of fid, inception_score, kid, not"),
        ({"metrics": []}, "metrics are some of"),
        ({"num_samples": 1}, "num_samples ≥ 2"),
        ({"batch_size": 0}, "batch_size and every_n_steps ≥ 1"),
        ({"every_n_steps": 0}, "every_n_steps ≥ 1"),
        ({"num_steps": 0}, "num_steps ≥ 1"),
        ({"kid_subset_size": 1}, "kid_subset_size ≥ 2"),
        ({"reference": "val"}, "reference is 'val'"),
    ],
)
def test_argument_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quality(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 29}, "29 samples are too few: these metrics need 30"),
        ({"num_samples": 9, "metrics": ["inception_score"]}, "9 samples .* need 10"),
        ({"reference": "test", "kid_subset_size": 40}, "33 images of the test part are .* need 40"),
    ],
)
def test_too_few_images_are_refused_before_any_work(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fitted(tmp_path, quality(**options, every_n_steps=8))


def test_two_of_them_can_be_listed(tmp_path: Path) -> None:
    both = [quality(num_samples=n, metrics=["fid"], every_n_steps=8) for n in (51, 40)]
    trainer = fitted(tmp_path, *both, saver(tmp_path, 8))
    assert {"val/fid_51", "val/fid_40"} < set(trainer.callback_metrics)


def test_sampling_and_training_take_no_notice_of_it(tmp_path: Path) -> None:
    idle = quality(extractor=None, weights="nowhere")
    fitted(tmp_path, idle, max_steps=1)
    trainer = small_trainer(tmp_path, idle)
    trainer.predict(SampleLoop(stage(), SampleOptions(seed=0)), DataLoader([range(4)], None))


def test_samples_have_the_precision_of_the_trainer(tmp_path: Path) -> None:
    trainer = small_trainer(tmp_path, quality(metrics=["fid"]), precision="bf16-mixed")
    trainer.test(stage(), Colours(), verbose=False)
    with torch.autocast("cpu", torch.bfloat16):
        images = samples(51).float()
    real = Colours().parts.train[:][0]
    expected = published_figures(images, real, kid=False, isc=False)["fid"]
    found = float(trainer.callback_metrics["test/fid_51"])
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != figures_of(tmp_path, quality())["fid_51"]


def test_features_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^Identity gives no features \(B, D\) of images$"):
        figures_of(tmp_path, quality(metrics=["fid"], extractor=nn.Identity()))


SCRIPT = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from tests.callbacks.test_sample_quality import quality
from tests.colours import Colours, stage
rank_folder = Path(sys.argv[1])
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False,
    callbacks=[quality(cache=str(rank_folder / "cache"))], use_distributed_sampler=True,
)
for _ in range(2):  # the second time from the cache
    trainer.test(stage(), Colours(), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with (rank_folder / f"{trainer.global_rank}.json").open("a") as file:
        file.write(json.dumps(found) + "\\n")
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_get_the_same_figures(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "script.py", str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    expected = figures_of(tmp_path, quality())
    for rank in (0, 1):
        lines = (tmp_path / f"{rank}.json").read_text().splitlines()
        assert len(lines) == 2
        for found in map(json.loads, lines):
            for name in PUBLISHED:
                assert found[f"test/{name}"] == pytest.approx(expected[name], rel=1e-6)
