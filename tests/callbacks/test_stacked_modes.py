"""The modes of stacked digits: counted as one by one, by the classifier of a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import ebm_stage, saver, small_trainer, toy_data
from vaebm.callbacks import StackedModes
from vaebm.callbacks.stacked_modes import load_classifier, modes_of
from vaebm.classifier_stage import ClassifierStage
from vaebm.datamodules import DigitsDataModule, StackedMNISTDataModule
from vaebm.datamodules.mnist import Digits
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models import ConvEnergy, DenseVAE
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace
from vaebm.vae_stage import VAEStage


class Stacked(StackedMNISTDataModule):
    """Random digits, so many that their triples have all modes."""

    def digits(self) -> list[Digits]:
        """Twice the same."""
        generator = generator_for(0)
        image = torch.randint(256, (10_000, 32, 32), generator=generator, dtype=torch.uint8)
        return [Digits(image, torch.randint(10, (10_000,), generator=generator))] * 2


def stage() -> EBMStage:
    torch.manual_seed(0)
    vae = DenseVAE((3, 32, 32), latent_dim=2, width=8, depth=1)
    energy = ConvEnergy(image_channels=3, channels=4, num_scales=1)
    return EBMStage(energy, LangevinSampler(2, step_size=1.0), NoiseSpace(), vae=vae)


def classifier(**options: Any) -> ClassifierStage:
    """A classifier that takes all of random images for a few different digits."""
    torch.manual_seed(0)
    model = ClassifierStage(**{"image_shape": [1, 32, 32], "num_classes": 10} | options)
    for parameter in model.parameters():
        parameter.data *= 3
    return model


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """The checkpoint of a training without any step."""
    return saved(tmp_path / "classifier", classifier())


def saved(folder: Path, model: Any) -> str:
    trainer = small_trainer(folder, saver(folder, 1), max_steps=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(folder / "a.ckpt")
    return str(folder / "a.ckpt")


def figures(folder: Path, callback: StackedModes, model: Any = None) -> dict[str, float]:
    trainer = small_trainer(folder, callback, limit_test_batches=1)
    trainer.test(model or stage(), Stacked(), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_modes_are_those_of_samples_one_by_one(tmp_path: Path, checkpoint: str) -> None:
    found = figures(tmp_path, StackedModes(checkpoint, num_samples=41, batch_size=20))
    samples = stage().eval().sample(41, generator=RowGenerators(0, range(41)))
    network = classifier()
    digits = [[int(network(colour[None, None]).argmax()) for colour in image] for image in samples]
    modes = [100 * a + 10 * b + c for a, b, c in digits]
    assert len(set(modes)) > 3
    assert found["test/modes"] == len(set(modes))
    counts = Stacked().parts.train.tensors[1].bincount()  # type: ignore[attr-defined]
    share = torch.tensor(modes).bincount(minlength=1000).double() / 41
    some = share > 0
    expected = (share * (share / (counts / counts.sum())).log())[some].sum()
    assert found["test/mode_kl"] == pytest.approx(float(expected), rel=1e-5)


def test_stage_2_has_the_vaes_own_figures(tmp_path: Path, checkpoint: str) -> None:
    callback = StackedModes(checkpoint, num_samples=41)
    found = figures(tmp_path, callback)
    alone = figures(tmp_path, callback, VAEStage(stage().vae))
    assert found["test/modes_vae"] == alone["test/modes"]
    assert found["test/mode_kl_vae"] == alone["test/mode_kl"]
    assert "test/modes_vae" not in alone


def test_numbers_of_steps_and_batch_size_are_those_asked_for(
    tmp_path: Path, checkpoint: str
) -> None:
    first = figures(tmp_path, StackedModes(checkpoint, num_samples=41, num_steps=7))
    again = figures(tmp_path, StackedModes(checkpoint, num_samples=41, num_steps=7, batch_size=3))
    other = figures(tmp_path, StackedModes(checkpoint, num_samples=41))
    assert first["test/mode_kl"] == again["test/mode_kl"] != other["test/mode_kl"]


def test_labels_of_the_data_are_what_a_perfect_classifier_says() -> None:
    image, label = Stacked().parts.train[:5]

    def perfect(digits: torch.Tensor) -> torch.Tensor:
        originals = Stacked().digits()[0]
        index = [
            int((originals.image == digit).all((1, 2)).nonzero())
            for digit in (digits[:, 0] * 255).round().byte()
        ]
        return torch.nn.functional.one_hot(originals.label[index], 10)

    assert torch.equal(modes_of(image, perfect), label)  # type: ignore[arg-type]


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    colours = classifier(image_shape=[3, 32, 32])
    for model in (classifier(num_classes=9), colours, ebm_stage()):
        path = saved(tmp_path, model)
        with pytest.raises(UsageError, match=f"^{path} is no classifier of ten digits"):
            load_classifier(path)
    with pytest.raises(UsageError, match="does not exist"):
        StackedModes(str(tmp_path / "no.ckpt"))
    (tmp_path / "x.ckpt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot be read|is refused"):
        StackedModes(str(tmp_path / "x.ckpt"))


def test_loading_leaves_the_global_random_state_alone(checkpoint: str) -> None:
    before = torch.get_rng_state()
    load_classifier(checkpoint)
    assert torch.equal(before, torch.get_rng_state())


def test_other_data_and_numbers_are_refused(tmp_path: Path, checkpoint: str) -> None:
    callback = StackedModes(checkpoint)
    for data in (toy_data(), DigitsDataModule()):
        with pytest.raises(UsageError, match="StackedModes needs StackedMNISTDataModule"):
            small_trainer(tmp_path, callback).test(ebm_stage(), data, verbose=False)
    for options in ({"num_samples": 0}, {"batch_size": 0}):
        with pytest.raises(UsageError, match="needs num_samples and batch_size ≥ 1"):
            StackedModes(checkpoint, **options)  # type: ignore[arg-type]
