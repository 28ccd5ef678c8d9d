"""DivergenceGuard: which signs it sees, what it returns to, how it ends a training."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor

from tests.training import ebm_stage, same_weights, saver, small_trainer, toy_data
from vaebm.callbacks import DivergenceGuard
from vaebm.ebm_stage import EBMStage
from vaebm.errors import DataError, UsageError
from vaebm.models import MLPVAE
from vaebm.samplers import LangevinSampler, ReplayBuffer
from vaebm.vae_stage import VAEStage

Weights = dict[str, Tensor]


class Alarms(Callback):
    """Pretends that chains' acceptance is low at some steps, and remembers the energy's weights.

    Args:
        steps: Training steps with the alarm.
    """

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.weights: dict[int, Weights] = {}
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: EBMStage, *_: Any) -> None:
        """Note weights and learning rate before each step."""
        self.weights[trainer.global_step] = copy_of(pl_module)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Overwrite the sign."""
        value = 0.0 if trainer.global_step + 1 in self.steps else 1.0
        pl_module.log("train/accept_prob", value)


def copy_of(stage: EBMStage) -> Weights:
    return {name: value.clone() for name, value in stage.energy.state_dict().items()}


def train(
    folder: Path, guard: DivergenceGuard, *callbacks: Callback, stage: EBMStage | None = None,
    **options: Any,
) -> tuple[EBMStage, Trainer]:  # fmt: skip
    stage = stage or ebm_stage()
    # The stage logs the true acceptance of its chains; here the alarms do.
    stage.sampler.noise_scale = 0.0  # type: ignore[attr-defined]
    trainer = small_trainer(folder, *callbacks, guard, **{"max_steps": 8, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(stage, toy_data())
    return stage, trainer


def small_guard(**options: Any) -> DivergenceGuard:
    return DivergenceGuard(**{"window": 1, "lag": 2, **options})


INF, NAN = float("inf"), float("nan")
Signs = dict[str, float]
SOUND = {"accept_prob": 0.9, "grad_norm": 10.0, "state_square": 1.2, "energy_magnitude": 30.0}


@pytest.mark.parametrize(
    ("signs", "text"),
    [
        ({"accept_prob": 0.3}, "acceptance is 0.30"),
        ({"accept_prob": NAN}, "acceptance is nan"),
        ({"grad_norm": 31.0}, "drift is 3.1, above 3"),
        ({"grad_norm": NAN}, "drift is nan"),
        ({"state_square": 4.0}, "latents is 4, above 3"),
        ({"state_square": NAN}, "latents is nan"),
        ({"energy_magnitude": 600.0}, r"\|E\| is 600, above 500"),
        ({"energy_magnitude": INF}, r"\|E\| is inf"),
        ({"energy_magnitude": NAN}, r"\|E\| is nan"),
    ],
)
def test_sign_out_of_range_is_named(signs: Signs, text: str) -> None:
    assert re.search(text, str(DivergenceGuard()._alarm(SOUND | signs, SOUND)))


@pytest.mark.parametrize(
    "signs",
    [SOUND, {"grad_norm": 10.0}, {"accept_prob": 0.4, "grad_norm": 30.0, "state_square": 3.0}],
)
def test_signs_in_range_or_not_logged_are_no_alarm(signs: Signs) -> None:
    assert DivergenceGuard()._alarm(signs, SOUND) is None


def test_drift_before_the_first_window_is_not_known() -> None:
    assert DivergenceGuard()._alarm(SOUND | {"grad_norm": 1e9}, {}) is None


@pytest.mark.parametrize(
    ("limit", "sign"),
    [
        ("max_drift_growth", "grad_norm"),
        ("max_state_square", "state_square"),
        ("max_energy", "energy_magnitude"),
    ],
)
def test_limit_may_be_left_out(limit: str, sign: str) -> None:
    signs = SOUND | {sign: 1e9}
    assert DivergenceGuard()._alarm(signs, SOUND) is not None
    assert DivergenceGuard(**{limit: None})._alarm(signs, SOUND) is None


def test_guard_leaves_a_sound_training_alone(tmp_path: Path) -> None:
    guarded, _ = train(tmp_path, small_guard(), Alarms())
    torch.manual_seed(0)  # as the fixture did: the same first weights
    plain = ebm_stage()
    plain.sampler.noise_scale = 0.0
    small_trainer(tmp_path, max_steps=8).fit(plain, toy_data())
    assert same_weights(copy_of(guarded), copy_of(plain))


def test_weights_return_to_a_snapshot_old_enough(tmp_path: Path) -> None:
    alarms = Alarms(7)
    train(tmp_path, small_guard(lag=3), alarms)
    # Snapshots at 1, 4 and 7: at 7 the one of 4 is the newest of three steps' age.
    assert same_weights(alarms.weights[7], alarms.weights[4])


def test_return_lowers_the_learning_rate_once(tmp_path: Path) -> None:
    alarms = Alarms(5)
    train(tmp_path, small_guard(lr_factor=0.25), alarms)
    assert alarms.rates == [1e-2] * 5 + [pytest.approx(2.5e-3)] * 3


def test_return_lowers_a_scheduled_learning_rate_for_good(tmp_path: Path) -> None:
    plain, guarded = Alarms(), Alarms(4)
    for alarms in (plain, guarded):
        train(tmp_path, small_guard(), alarms, stage=ebm_stage(lr_final=1e-4))
    halved = [rate / 2 for rate in plain.rates[4:]]
    # The schedule of that very step is set before the guard looks.
    assert guarded.rates == [*plain.rates[:4], *map(pytest.approx, halved)]


@pytest.mark.parametrize(
    ("before", "after"),
    [((0.0, None, 0.0), (0.02, 7.0, 0.03)), ((0.1, 3.0, 0.2), (0.1, 3.0, 0.2))],
)
def test_return_gives_the_stage_the_terms_it_lacks(
    tmp_path: Path,
    before: tuple[float, float | None, float],
    after: tuple[float, float, float],
) -> None:
    offset_weight, gap_scale, spectral_weight = before
    stage = ebm_stage(
        offset_weight=offset_weight, gap_scale=gap_scale, spectral_weight=spectral_weight
    )
    guard = small_guard(offset_weight=0.02, gap_scale=7.0, spectral_weight=0.03)
    train(tmp_path, guard, Alarms(5), stage=stage)
    assert (stage.offset_weight, stage.gap_scale, stage.spectral_weight) == after


def test_sound_training_keeps_its_loss(tmp_path: Path) -> None:
    stage, _ = train(tmp_path, small_guard(), Alarms(), stage=ebm_stage(offset_weight=0.0))
    assert (stage.offset_weight, stage.gap_scale) == (0.0, None)


def test_second_return_tells_the_step_of_the_weights(tmp_path: Path) -> None:
    stage, guard = ebm_stage(), small_guard(lag=3)
    stage.sampler.noise_scale = 0.0
    with pytest.warns(UserWarning, match=r"step 6: .* back to the weights of step 1, .*return 2"):
        small_trainer(tmp_path, Alarms(4, 6), guard, max_steps=6).fit(stage, toy_data())


def test_window_counts_steps_and_not_their_batches(tmp_path: Path) -> None:
    alarms = Alarms(3)
    train(tmp_path, small_guard(lag=1), alarms, max_steps=4, accumulate_grad_batches=2)
    assert alarms.rates == [1e-2] * 6 + [5e-3] * 2


def test_averages_return_too(tmp_path: Path) -> None:
    average = EMAWeightAveraging(decay=0.5)
    found: dict[int, Weights] = {}

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            model = average._average_model.module
            found[trainer.global_step] = copy_of(model)

    alarms = Alarms(7)
    train(tmp_path, small_guard(lag=3), alarms, average, Watch())
    assert same_weights(found[7], found[4])
    assert same_weights(alarms.weights[7], alarms.weights[4])


def test_optimizer_returns_too(tmp_path: Path) -> None:
    _, trainer = train(tmp_path, small_guard(lag=3), Alarms(7), max_steps=7)
    steps = {float(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert steps == {4.0}


def test_persistent_chains_start_afresh_at_a_return(tmp_path: Path) -> None:
    stage = ebm_stage(ReplayBuffer(capacity=1000))
    train(tmp_path, small_guard(), Alarms(6), stage=stage)
    assert len(stage.replay) == 2 * 25


def test_training_ends_after_the_last_return(tmp_path: Path) -> None:
    _, trainer = train(tmp_path, small_guard(max_returns=1), Alarms(4, 6), max_steps=20)
    assert trainer.global_step == 6


@pytest.mark.parametrize("average", [True, False], ids=["averaged", "plain"])
@pytest.mark.parametrize("every", [1, 4, 100], ids=["each step", "some steps", "none yet"])
def test_last_checkpoint_of_an_ended_training_is_sound(
    tmp_path: Path, every: int, average: bool
) -> None:
    alarms = Alarms(5)
    averages = [EMAWeightAveraging(decay=0.9)] if average else []
    train(tmp_path, small_guard(max_returns=0, lag=3), alarms, *averages, saver(tmp_path, every))
    # Of step 1 the average is the weights themselves.
    assert same_weights(stored_energy(tmp_path / "last.ckpt"), alarms.weights[1])


def test_best_checkpoint_stays(tmp_path: Path) -> None:
    alarms = Alarms(5)
    best = ModelCheckpoint(
        tmp_path, filename="{step}", monitor="train/accept_prob", every_n_train_steps=4
    )
    train(tmp_path, small_guard(max_returns=0, lag=3), alarms, best)
    assert same_weights(stored_energy(tmp_path / "step=4.ckpt"), alarms.weights[4])
    assert same_weights(stored_energy(tmp_path / "guarded-step=5.ckpt"), alarms.weights[1])


def test_loss_that_is_no_number_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    class Break(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: EBMStage, *_: Any) -> None:
            if trainer.global_step == 5:
                next(pl_module.energy.parameters()).data.fill_(NAN)

    alarms = Alarms()
    with pytest.raises(DataError, match="diverged"):
        train(tmp_path, DivergenceGuard(lag=3), alarms, saver(tmp_path, 1), Break())
    assert same_weights(stored_energy(tmp_path / "last.ckpt"), alarms.weights[1])


def stored_energy(path: Path) -> Weights:
    stored = torch.load(path)["state_dict"]
    return {n.removeprefix("energy."): v for n, v in stored.items() if n.startswith("energy.")}


def test_stage_1_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stage 2"):
        small_trainer(tmp_path, small_guard()).fit(VAEStage(MLPVAE(width=8, depth=1)), toy_data())


def test_return_is_reported_in_one_line(tmp_path: Path) -> None:
    stage, guard = ebm_stage(), small_guard()
    stage.sampler.noise_scale = 0.0
    with pytest.warns(
        UserWarning, match=r"step 5: .* back to the weights of step 3, learning rate"
    ):
        small_trainer(tmp_path, Alarms(5), guard, max_steps=5).fit(stage, toy_data())


def test_returns_are_counted_on_after_a_resume(tmp_path: Path) -> None:
    train(tmp_path, small_guard(), Alarms(3), saver(tmp_path, 4), max_steps=4)
    guard = small_guard()
    trainer = small_trainer(tmp_path, Alarms(), guard, max_steps=8)
    stage = ebm_stage()
    stage.sampler.noise_scale = 0.0
    trainer.fit(stage, toy_data(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert guard.returns == 1
    assert stage.gap_scale == guard.gap_scale


def test_a_run_that_explodes_ends_with_finite_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = ebm_stage(lr=0.3, weight_decay=0.0, spectral_weight=0.0, gradient_bound=False)
    stage.sampler = LangevinSampler(10, step_size=2.0)
    guard = DivergenceGuard(window=4, lag=4, max_returns=2)
    trainer = small_trainer(tmp_path, guard, saver(tmp_path, 4), max_steps=400)
    with pytest.warns(UserWarning, match="Training ends here"):
        trainer.fit(stage, toy_data())
    assert trainer.global_step < 400
    assert all(p.isfinite().all() for p in stage.energy.parameters())
    EBMStage.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "options",
    [
        {"min_accept": -0.1}, {"min_accept": 1.0}, {"lr_factor": 0.0}, {"lr_factor": 1.5},
        {"window": 0}, {"lag": 0}, {"max_returns": -1}, {"offset_weight": -1.0},
        {"spectral_weight": -1.0}, {"gap_scale": 0.0}, {"max_energy": 0.0},
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="DivergenceGuard"):
        DivergenceGuard(**options)
