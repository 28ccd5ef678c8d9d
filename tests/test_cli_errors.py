"""Bad input: `vaebm` says in one line what is wrong, and never shows a traceback."""

import io
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import STAGE_1, STAGE_2, Result, overlay, run, trained
from vaebm.datamodules import Gaussians25DataModule, ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.models import DenseVAE
from vaebm.vae_stage import VAEStage

BadRun = Callable[..., str]


class NaNDataModule(Gaussians25DataModule):
    """25 Gaussians with one broken training point."""

    def splits(self) -> Splits:
        """Break a point."""
        parts = super().splits()
        parts.train.tensors[0][3, 1] = float("nan")  # type: ignore[attr-defined]
        return parts


class EmptyDataModule(ImageDataModule):
    """No points at all."""

    def __init__(self, batch_size: int = 4, num_workers: int = 0) -> None:
        super().__init__(batch_size, num_workers)

    def splits(self) -> Splits:
        """Three empty parts."""
        return Splits(*(Tensors(torch.empty(0, 2)) for _ in range(3)))


class Evil:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder with two small configs, and leave no seed behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    overlay(tmp_path / "stage1.yaml", STAGE_1)
    overlay(tmp_path / "stage2.yaml", STAGE_2)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> BadRun:
    """Runs a command that must fail with one error line; gives that line."""

    def check(code: int, *args: object) -> str:
        trained()  # before, so that its output is not taken for the command's
        result: Result = run(capsys, *args)
        assert "Traceback" not in result.out + result.err
        assert (result.code, len(result.errors)) == (code, 1), result.err
        return result.errors[0]

    return check


def vae_run(*options: object) -> list[object]:
    """A small stage 1."""
    return ["fit", "--config", "gaussians25_vae", "--config", "stage1.yaml", *options]


def ebm_run(*options: object, vae: object = None) -> list[object]:
    """A small stage 2."""
    vae = trained().vae if vae is None else vae
    small = ["fit", "--config", "gaussians25_ebm", "--config", "stage2.yaml"]
    return [*small, "--model.vae_checkpoint", vae, *options]


# Wrong use of the command line: exit code 2


def test_unknown_command_is_refused_with_the_closest_one(refused: BadRun) -> None:
    assert "did you mean sample?" in refused(2, "smaple")


def test_option_instead_of_a_command_is_refused(refused: BadRun) -> None:
    assert "command" in refused(2, "--num_samples", 3)


def test_fit_without_a_config_is_refused(refused: BadRun) -> None:
    assert "--config" in refused(2, "fit")


def test_unknown_config_is_refused_with_the_closest_one(refused: BadRun) -> None:
    assert "did you mean gaussians25_vae.yaml?" in refused(2, "fit", "--config", "gausians25_vae")


def test_unreadable_yaml_is_refused(refused: BadRun) -> None:
    Path("broken.yaml").write_text("model: [1, {")
    assert "broken.yaml" in refused(2, "fit", "--config", "broken.yaml")


def test_config_that_is_no_text_is_refused(refused: BadRun) -> None:
    Path("bytes.yaml").write_bytes(bytes(range(128, 256)))
    assert "bytes.yaml" in refused(2, "fit", "--config", "bytes.yaml")


def test_unknown_sampler_is_refused_with_the_closest_one(refused: BadRun) -> None:
    line = refused(2, *ebm_run("--model.sampler", "LangevinSampla"))
    assert "did you mean LangevinSampler?" in line


def test_unknown_sampler_of_a_config_is_refused_with_the_closest_one(refused: BadRun) -> None:
    sampler = {"class_path": "LangevinSampla"}
    overlay(Path("typo.yaml"), {"model": {"init_args": {"sampler": sampler}}})
    assert "did you mean LangevinSampler?" in refused(2, *ebm_run("--config", "typo.yaml"))


@pytest.mark.parametrize(
    ("option", "closest"),
    [
        ("--trainer.max_step=3", "--trainer.max_steps"),
        ("--model.lrr=3", "lr"),
        ("--model.init_args.lrr=3", "lr"),
        ("--model.energy.widht=3", "width"),
        ("--confg=a.yaml", "--config"),
    ],
)
def test_mistyped_option_is_refused_with_the_closest_one(
    refused: BadRun, option: str, closest: str
) -> None:
    assert f"did you mean {closest}?" in refused(2, *ebm_run(option))


def test_mistyped_key_of_a_config_is_refused_with_the_closest_one(refused: BadRun) -> None:
    overlay(Path("typo.yaml"), {"model": {"init_args": {"learning_rate": 0.1, "betaz": [0, 1]}}})
    assert "typo.yaml" in refused(2, *vae_run("--config", "typo.yaml"))


def test_value_of_another_type_is_refused(refused: BadRun) -> None:
    assert "abc" in refused(2, *vae_run("--model.lr", "abc"))


def test_stage_2_without_a_vae_is_refused(refused: BadRun) -> None:
    line = refused(2, "fit", "--config", "gaussians25_ebm", "--config", "stage2.yaml")
    assert "--model.vae_checkpoint" in line


def test_test_without_data_is_refused(refused: BadRun) -> None:
    checkpoint = torch.load(trained().ebm)
    del checkpoint["datamodule_hyper_parameters"]
    torch.save(checkpoint, "no_data.ckpt")
    assert "--config" in refused(2, "test", "--ckpt_path", "no_data.ckpt")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_without_a_checkpoint_is_refused(refused: BadRun, command: str) -> None:
    assert "--ckpt_path" in refused(2, command, "--config", "gaussians25_vae")


def test_sample_without_a_checkpoint_is_refused(refused: BadRun) -> None:
    assert "--ckpt_path" in refused(2, "sample")


@pytest.mark.parametrize(
    "option", ["--num_samples=0", "--num_samples=-3", "--batch_size=0", "--num_steps=0"]
)
def test_sample_refuses_a_number_below_one(refused: BadRun, option: str) -> None:
    assert option.split("=")[0] in refused(2, "sample", "--ckpt_path", trained().ebm, option)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--trainer.limit_predict_batches", 1), "--num_samples"),
        (("--trainer.limit_predict_batches", 0), "--num_samples"),
        (("--trainer.strategy=ddp_fork", "--trainer.devices=2"), "--trainer.strategy ddp"),
    ],
)
def test_sample_refuses_what_loses_samples(
    refused: BadRun, options: tuple[object, ...], complaint: str
) -> None:
    cpu = ("--trainer.accelerator", "cpu")
    assert complaint in refused(2, "sample", "--ckpt_path", trained().ebm, *cpu, *options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--trainer.max_steps", -5), "`max_steps` must be a non-negative integer"),
        (("--trainer.strategy", "foo"), "invalid strategy name"),
        (("--trainer.sync_batchnorm=true", "--trainer.devices=2"), "sync_batchnorm false"),
        (
            ("--trainer.logger=WandbLogger", "--trainer.logger.log_model=true",
             "--trainer.logger.offline=true"),
            "Providing log_model=True and offline=True is an invalid",
        ),
    ],
)  # fmt: skip
def test_options_of_the_trainer_that_make_no_sense_are_refused(
    refused: BadRun, options: tuple[object, ...], complaint: str
) -> None:
    cpu = ("--trainer.accelerator", "cpu")
    assert complaint in refused(2, "fit", "--config", "gaussians25_vae", *cpu, *options)


def test_arguments_of_list_are_refused(refused: BadRun) -> None:
    assert "unrecognized arguments: foo" in refused(2, "list", "foo")


@pytest.mark.parametrize("output", ["taken", "taken/deeper"])
def test_sample_refuses_an_output_that_is_a_file(refused: BadRun, output: str) -> None:
    Path("taken").write_text("mine")
    line = refused(2, "sample", "--ckpt_path", trained().ebm, "--output", output)
    assert "taken is a file" in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model.replay", "ReplayBuffer", "--model.replay.reuse_prob=1.5"], "reuse_prob"),
        (["--model.replay", "ReplayBuffer", "--model.replay.reuse_prob=-0.1"], "reuse_prob"),
        (["--model.replay", "ReplayBuffer", "--model.replay.capacity=0"], "capacity"),
        (["--model.sampler.num_steps=0"], "num_steps"),
        (["--model.sampler.step_size=-1"], "step_size"),
        (["--model.space.prior=none"], "prior"),
        (["--model.contrast=middle"], "contrast"),
        (["--model.offset_weight=-1"], "weights"),
        (["--model.data_init_batches=-1"], "data_init_batches"),
        (["--data.batch_size=0"], "batch_size"),
        (["--data.batch_size=601"], "batch_size"),
        (["--data.num_train=-5"], "num_train"),
    ],
)
def test_stage_2_refuses_a_number_out_of_range(
    refused: BadRun, options: list[str], named: str
) -> None:
    assert named in refused(2, *ebm_run(*options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model.energy.data_dim=3"], "MLPEnergy"),
        (["--model.energy", "ConvEnergy"], "ConvEnergy"),
        (["--data", "DigitsDataModule"], "(1, 8, 8)"),
    ],
    ids=["dimension", "image network", "image data"],
)
def test_stage_2_refuses_parts_of_different_shapes(
    refused: BadRun, options: list[str], named: str
) -> None:
    assert named in refused(2, *ebm_run(*options))


@pytest.fixture(scope="module")
def image_vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Checkpoints of VAEs of 8×8 images, by number of colours."""
    found = {}
    for colours in (1, 3):
        stage = VAEStage(DenseVAE((colours, 8, 8), latent_dim=2, width=4, depth=1))
        found[colours] = tmp_path_factory.mktemp("vae") / f"{colours}.ckpt"
        weights = {"state_dict": stage.state_dict(), "hyper_parameters": dict(stage.hparams)}
        torch.save(weights, found[colours])
    return found


def image_run(vae: Path, *options: object) -> list[object]:
    """Stage 2 with a small residual energy on the digits, which are grey and 8×8."""
    small = ["fit", "--config", "digits_ebm", "--trainer.max_steps=1", "--trainer.logger=false"]
    energy = ["--model.energy", "ResidualEnergy", "--model.energy.channels=2"]
    return [*small, "--model.vae_checkpoint", vae, *energy, *options]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model.energy.image_channels=3"], "ResidualEnergy fails on the VAE's images"),
        (
            ["--model.energy.image_channels=1", "--model.energy.multipliers=[1,1,1,1]",
             "--model.energy.halvings=[0,1,2,3]"],
            "no multiples of 16",
        ),
    ],
    ids=["colours", "sides"],
)  # fmt: skip
def test_stage_2_refuses_an_energy_for_other_images(
    refused: BadRun, image_vaes: dict[int, Path], options: list[str], named: str
) -> None:
    line = refused(2, *image_run(image_vaes[1], *options))
    assert named in line
    assert "(1, 8, 8)" in line


@pytest.mark.parametrize("batches", [0, 2])
def test_stage_2_refuses_a_vae_for_other_colours_than_the_data(
    refused: BadRun, image_vaes: dict[int, Path], batches: int
) -> None:
    options = ("--model.energy.image_channels=3", f"--model.data_init_batches={batches}")
    line = refused(2, *image_run(image_vaes[3], *options))
    assert "the data are of shape (1, 8, 8), but DenseVAE is made for (3, 8, 8)" in line


def test_stage_2_trains_where_vae_energy_and_data_fit(
    capsys: pytest.CaptureFixture[str], image_vaes: dict[int, Path]
) -> None:
    options = ("--model.energy.image_channels=1", "--model.data_init_batches=2",
               "--trainer.limit_val_batches=0", "--trainer.callbacks=[]")  # fmt: skip
    assert run(capsys, *image_run(image_vaes[1], *options)).code == 0


def test_replay_smaller_than_a_batch_is_refused_before_training(refused: BadRun) -> None:
    replay = ["--model.replay", "ReplayBuffer", "--model.replay.capacity=37"]
    line = refused(2, *ebm_run(*replay, "--data.batch_size=41"))
    assert all(word in line for word in ("capacity", "37", "41"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--model.vae.data_dim=3"], "(3,)"),
        (["--data", "DigitsDataModule"], "(1, 8, 8)"),
    ],
    ids=["dimension", "image data"],
)
def test_stage_1_refuses_data_of_another_shape(
    refused: BadRun, options: list[str], named: str
) -> None:
    assert named in refused(2, *vae_run(*options))


def test_weights_of_another_architecture_are_refused(refused: BadRun) -> None:
    line = refused(2, "test", "--ckpt_path", trained().ebm, "--model.energy.width", 8)
    assert "energy.net.0.weight" in line
    assert len(line) < 400


def test_negative_seed_is_refused(refused: BadRun) -> None:
    assert "seed" in refused(2, "sample", "--ckpt_path", trained().ebm, "--seed", -1)


def test_cosine_without_an_end_is_refused(refused: BadRun) -> None:
    endless = (
        "--trainer.max_steps",
        -1,
        "--trainer.max_epochs",
        -1,
        "--trainer.max_time",
        "00:00:01:00",
    )
    assert "max_steps" in refused(2, *vae_run(*endless))


@pytest.mark.parametrize(("wrong", "right"), [("bf16-true", "bf16-mixed"), ("64-true", "32-true")])
def test_precision_that_chains_do_not_have_is_refused(
    refused: BadRun, wrong: str, right: str
) -> None:
    assert right in refused(2, *ebm_run("--trainer.precision", wrong))


def test_replay_with_a_sampler_that_ignores_it_is_refused(refused: BadRun) -> None:
    sampler = ("--model.sampler", "ResamplingSampler")
    replay = ("--model.replay", "vaebm.samplers.ReplayBuffer")
    assert "replay" in refused(2, *ebm_run(*sampler, *replay))


# Bad files: exit code 1, or 2 where there is none


@cache
def bad_files() -> dict[str, bytes]:
    """Contents that are no checkpoint, by what they are."""
    good = trained().ebm.read_bytes()

    def saved(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    return {
        "truncated": good[: len(good) // 2],
        "beginning": good[:100],
        "text": b"no checkpoint at all\n",
        "empty": b"",
        "evil pickle": pickle.dumps(Evil()),
        "evil checkpoint": saved({"state_dict": Evil(), "hyper_parameters": {}}),
        "foreign dict": saved({"weights": torch.zeros(3)}),
        "no dict": saved([1, 2]),
        "foreign hyper-parameters": saved({"state_dict": {}, "hyper_parameters": [1]}),
        "foreign weights": saved({"state_dict": [1], "hyper_parameters": {"lr": 1}}),
    }


COMMANDS: dict[str, Callable[[str], list[object]]] = {
    "sample": lambda path: ["sample", "--ckpt_path", path],
    "stage 2": lambda path: ebm_run(vae=path),
    "resume": lambda path: vae_run("--ckpt_path", path),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", [
    "truncated", "beginning", "text", "empty", "evil pickle", "evil checkpoint", "foreign dict",
    "no dict", "foreign hyper-parameters", "foreign weights",
])  # fmt: skip
def test_bad_file_is_refused_and_not_executed(refused: BadRun, command: str, kind: str) -> None:
    Path("bad.ckpt").write_bytes(bad_files()[kind])
    assert "bad.ckpt" in refused(1, *COMMANDS[command]("bad.ckpt"))
    assert not Path("executed").exists()


def test_file_that_would_run_code_is_refused_without_advice_to_load_it(refused: BadRun) -> None:
    Path("bad.ckpt").write_bytes(bad_files()["evil checkpoint"])
    line = refused(1, "sample", "--ckpt_path", "bad.ckpt")
    assert "could run code" in line
    assert "weights_only" not in line


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_checkpoint_is_refused(refused: BadRun, command: str) -> None:
    assert "missing.ckpt" in refused(2, *COMMANDS[command]("missing.ckpt"))


def test_missing_checkpoint_names_its_neighbours(refused: BadRun) -> None:
    path = trained().ebm.with_name("lost.ckpt")
    assert "last.ckpt" in refused(2, "sample", "--ckpt_path", path)


@pytest.mark.parametrize("name", ["_class_path", "energy", "sampler", "space", "vae", "replay"])
@pytest.mark.parametrize("class_path", ["os.system", "pathlib.Path", "no_such_package.Thing"])
def test_checkpoint_never_calls_a_class_that_is_no_member(
    refused: BadRun, name: str, class_path: str
) -> None:
    checkpoint = torch.load(trained().ebm)
    arguments = {"command": "touch executed"} if class_path == "os.system" else {}
    other = {"class_path": class_path, "init_args": arguments}
    checkpoint["hyper_parameters"][name] = class_path if name == "_class_path" else other
    torch.save(checkpoint, "hostile.ckpt")
    line = refused(1, "sample", "--ckpt_path", "hostile.ckpt")
    assert class_path in line
    assert not Path("executed").exists()


def test_vae_of_a_checkpoint_is_never_another_class(refused: BadRun) -> None:
    checkpoint = torch.load(trained().vae)
    evil = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
    checkpoint["hyper_parameters"]["vae"] = evil
    torch.save(checkpoint, "hostile.ckpt")
    assert "os.system is no" in refused(1, *ebm_run(vae="hostile.ckpt"))
    assert not Path("executed").exists()


# Bad numbers: exit code 1


@pytest.mark.parametrize("stage", [vae_run, ebm_run])
def test_nan_in_the_data_is_refused(refused: BadRun, stage: Callable[..., list[object]]) -> None:
    line = refused(1, *stage("--data", f"{__name__}.NaNDataModule"))
    assert "1 of 600 train items of NaNDataModule hold NaN" in line


def test_empty_data_is_refused(refused: BadRun) -> None:
    line = refused(1, *vae_run("--data", f"{__name__}.EmptyDataModule"))
    assert "train part of EmptyDataModule is empty" in line


@pytest.mark.parametrize("stage", [vae_run, ebm_run])
def test_divergence_is_reported(refused: BadRun, stage: Callable[..., list[object]]) -> None:
    assert "training diverged" in refused(1, *stage("--model.lr", "1e30"))


@pytest.mark.parametrize("stage", [vae_run, ebm_run])
@pytest.mark.parametrize("lr", ["1e8", "1e15", "1e30"])
def test_checkpoint_before_a_divergence_is_finite(
    capsys: pytest.CaptureFixture[str], stage: Callable[..., list[object]], lr: str
) -> None:
    callback = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=saved",
                "--trainer.callbacks.every_n_train_steps=1"]  # fmt: skip
    run(capsys, *stage("--model.lr", lr, "--trainer.max_steps", "12", *callback))
    saved = list(Path("saved").glob("*.ckpt"))
    weights = [torch.load(path)["state_dict"] for path in saved]
    assert saved
    assert all(w.isfinite().all() for state_dict in weights for w in state_dict.values())


# The switch for developers


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" in run(capsys, "sample", "--ckpt_path", "missing.ckpt", "--debug").err
