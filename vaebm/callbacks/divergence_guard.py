"""Steps in before a training of stage 2 runs away."""

import copy
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from vaebm.ebm_stage import EBMStage
from vaebm.errors import Diverged, UsageError

Saved = dict[str, Any]


class Snapshot(NamedTuple):
    """A state to return to, in CPU memory.

    Attributes:
        step: Training step at which it was taken.
        since: Step from which its age counts: its own, or that of the last return to it.
        signs: Means of the signs over the window before, where there was one.
        weights: Trained weights, and their averages if there are any.
        optimizers: State of each optimiser.
    """

    step: int
    since: int
    signs: dict[str, float]
    weights: Saved
    optimizers: list[Saved]


class DivergenceGuard(Callback):
    """Returns to the last good weights before a training of stage 2 runs away.

    Energies grow sharper until chains of few steps can no longer follow them; then chains end where
    E is high, the contrast pushes E up there, and E runs away. This guard watches, over `window`
    steps, what tells of it first: ``train/accept_prob`` (the step size is too large for E),
    ``train/grad_norm`` (the drift grows fast), ``train/state_square`` (chains leave the prior) and
    ``train/energy_magnitude``. When one leaves its range, the weights, their averages and the
    optimiser return to a snapshot that is at least `lag` steps old, or to the first of the run;
    persistent chains start afresh, the learning rate is multiplied by `lr_factor`, and the stage
    gets `offset_weight`, `gap_scale` and `spectral_weight`, which make the next return rarer, if it
    had none. After `max_returns` returns the next sign ends the training, with the good weights in
    the last checkpoint. So does a loss that is no number, at once.

    It does not see the slow decay in which E becomes a flat classifier of data and samples: there
    only ``train/energy_gap`` falls, over thousands of steps.

    Args:
        min_accept: Smallest mean acceptance that a Metropolis test would have shown, or did show. 0
            for chains with large steps or little noise, which are not meant to pass one, and for
            jumps, of which few are accepted.
        max_drift_growth: Largest growth of the drift from the snapshot to now.
        max_state_square: Largest mean square of the chains' latents; N(0, I) has 1. None for chains
            in `JointSpace` and on points, whose scale is another.
        max_energy: Largest mean of |E|.
        window: Steps over which signs are averaged.
        lag: Steps that a snapshot must be old to be trusted; a sign comes after its cause.
        lr_factor: Factor on the learning rate at each return.
        offset_weight: Smallest ``offset_weight`` of the stage from the first return on.
        gap_scale: ``gap_scale`` of the stage from the first return on, if it had none; None leaves
            it at the paper's loss.
        spectral_weight: Smallest ``spectral_weight`` of the stage from the first return on.
        max_returns: Returns before the training ends.
    """

    signs = ("accept_prob", "grad_norm", "state_square", "energy_magnitude")

    def __init__(
        self,
        min_accept: float = 0.4,
        max_drift_growth: float | None = 3.0,
        max_state_square: float | None = 3.0,
        max_energy: float | None = 500.0,
        window: int = 20,
        lag: int = 50,
        lr_factor: float = 0.5,
        offset_weight: float = 0.01,
        gap_scale: float | None = 10.0,
        spectral_weight: float = 0.02,
        max_returns: int = 3,
    ) -> None:
        if not 0 <= min_accept < 1 or not 0 < lr_factor <= 1:
            raise UsageError("DivergenceGuard needs min_accept in [0, 1) and lr_factor in (0, 1]")
        limits = {"grad_norm": max_drift_growth, "state_square": max_state_square}
        limits["energy_magnitude"] = max_energy
        if not all(value is None or value > 0 for value in (*limits.values(), gap_scale)):
            raise UsageError("limits and gap_scale of DivergenceGuard are above 0, or null")
        if min(window, lag) < 1 or min(max_returns, offset_weight, spectral_weight) < 0:
            raise UsageError(
                "DivergenceGuard needs window ≥ 1, lag ≥ 1, max_returns ≥ 0 and weights ≥ 0"
            )
        self.min_accept = min_accept
        self.limits = limits
        self.window = window
        self.lag = lag
        self.lr_factor = lr_factor
        self.offset_weight = offset_weight
        self.gap_scale = gap_scale
        self.spectral_weight = spectral_weight
        self.max_returns = max_returns
        self.returns = 0
        self._first = self._seen = 0
        self._recent: list[dict[str, Tensor]] = []
        self._snapshots: deque[Snapshot] = deque()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier run; go on as before an interruption."""
        if not isinstance(pl_module, EBMStage):
            raise UsageError("DivergenceGuard is for stage 2")
        self._first = self._seen = trainer.global_step
        self._recent.clear()
        self._snapshots.clear()
        self._mend(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take the first snapshot, after a step: averages are none before."""
        if not self._snapshots and trainer.global_step > self._first:
            self._snapshots.append(_snapshot(trainer, pl_module, {}))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the signs of a step; look at them once a window, which synchronises once."""
        if trainer.global_step == self._seen:  # a step of several batches, not done yet
            return
        self._seen = trainer.global_step
        metrics = {name: trainer.callback_metrics.get(f"train/{name}") for name in self.signs}
        self._recent.append({n: v.detach().float() for n, v in metrics.items() if v is not None})
        if len(self._recent) < self.window or not self._snapshots:
            return
        names = list(self._recent[-1])
        rows = torch.stack([torch.stack([row[n] for n in names]) for row in self._recent])
        self._recent.clear()
        means = trainer.strategy.reduce(rows.mean(0), reduce_op="mean")  # all ranks decide alike
        signs = dict(zip(names, means.tolist(), strict=True))
        # One that is old enough is all it takes, and the younger ones that will be.
        while len(self._snapshots) > 1 and self._seen >= self._snapshots[1].since + self.lag:
            self._snapshots.popleft()
        alarm = self._alarm(signs, self._snapshots[0].signs)
        if alarm:
            self._step_in(trainer, pl_module, alarm)
        elif self._seen >= self._snapshots[-1].since + self.lag:
            self._snapshots.append(_snapshot(trainer, pl_module, signs))

    def _alarm(self, signs: dict[str, float], before: dict[str, float]) -> str | None:
        """The sign that left its range, in words; NaN is in no range."""
        accept = signs.get("accept_prob", 1.0)
        if not accept >= self.min_accept:
            return f"chains' acceptance is {accept:.2f}, below {self.min_accept:g}"
        growth = signs["grad_norm"] / before["grad_norm"] if "grad_norm" in before else 1.0
        ranged = {**signs, "grad_norm": growth}
        for name, text in (
            ("energy_magnitude", "the mean of |E|"),
            ("state_square", "the mean square of the chains' latents"),
            ("grad_norm", "the growth of the chains' drift"),
        ):
            limit = self.limits[name]
            if limit is not None and name in ranged and not ranged[name] <= limit:
                return f"{text} is {ranged[name]:.4g}, above {limit:g}"
        return None

    def _step_in(self, trainer: Trainer, pl_module: LightningModule, alarm: str) -> None:
        """Go back, and on with a lower learning rate or to the end."""
        good, step = self._snapshots[0], trainer.global_step
        _restore(trainer, pl_module, good)
        text = f"step {step}: {alarm}; back to the weights of step {good.step}"
        if self.returns == self.max_returns:
            rank_zero_warn(f"{text}. Training ends here, after {self.returns} returns")
            trainer.should_stop = True
            _rewrite_last_checkpoints(trainer)
            return
        self.returns += 1
        self._mend(pl_module)
        _scale_learning_rates(trainer, self.lr_factor)
        self._snapshots = deque([good._replace(since=step)])
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        rank_zero_warn(f"{text}, learning rate {rate:.3g} (return {self.returns})")

    def _mend(self, pl_module: LightningModule) -> None:
        """After a return, give the stage the terms that prevent the next one."""
        if self.returns and isinstance(pl_module, EBMStage):
            pl_module.offset_weight = max(pl_module.offset_weight, self.offset_weight)
            pl_module.gap_scale = pl_module.gap_scale or self.gap_scale
            pl_module.spectral_weight = max(pl_module.spectral_weight, self.spectral_weight)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave good weights behind where the loss became no number within one window."""
        # Several processes would wait for each other: not all of them came here.
        if isinstance(exception, Diverged) and self._snapshots and trainer.world_size == 1:
            _restore(trainer, pl_module, self._snapshots[0])
            _rewrite_last_checkpoints(trainer)

    def state_dict(self) -> Saved:
        """The returns so far; a resumed run takes new snapshots."""
        return {"returns": self.returns}

    def load_state_dict(self, state_dict: Saved) -> None:
        """Restore what `state_dict` gave."""
        self.returns = state_dict["returns"]


def _weights(trainer: Trainer, pl_module: LightningModule) -> Saved:
    """Current and averaged weights, in the form of a checkpoint."""
    weights: Saved = {"state_dict": pl_module.state_dict()}
    for average in _averages(trainer):
        average.on_save_checkpoint(trainer, pl_module, weights)
    return weights


def _averages(trainer: Trainer) -> list[WeightAveraging]:
    return [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]


def _snapshot(trainer: Trainer, pl_module: LightningModule, signs: dict[str, float]) -> Snapshot:
    """Copy what training changes to CPU memory: not the frozen VAE."""
    weights = {
        part: {name: value for name, value in values.items() if not name.startswith("vae.")}
        for part, values in _weights(trainer, pl_module).items()
    }
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    saved = move_data_to_device((weights, optimizers), "cpu")
    step = trainer.global_step
    return Snapshot(step, step, signs, *copy.deepcopy(saved))


def _restore(trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot) -> None:
    """Put a snapshot back and forget persistent chains; learning rates stay as they are."""
    weights = _weights(trainer, pl_module)
    for part, values in snapshot.weights.items():
        weights[part] = {**weights[part], **values}
    pl_module.load_state_dict(weights["state_dict"])
    for average in _averages(trainer):
        average.on_load_checkpoint(trainer, pl_module, weights)
    for optimizer, state in zip(trainer.optimizers, snapshot.optimizers, strict=True):
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.load_state_dict(copy.deepcopy(state))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    replay = getattr(pl_module, "replay", None)
    if replay is not None:
        replay.clear()


def _scale_learning_rates(trainer: Trainer, factor: float) -> None:
    """Multiply the learning rates now and those that the schedulers will set."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor
            if "initial_lr" in group:
                group["initial_lr"] *= factor
    for config in trainer.lr_scheduler_configs:
        rates = getattr(config.scheduler, "base_lrs", [])
        config.scheduler.base_lrs = [rate * factor for rate in rates]


def _rewrite_last_checkpoints(trainer: Trainer) -> None:
    """Replace the newest checkpoints by one of the weights as they are now; no best one."""
    for saver in trainer.checkpoint_callbacks:
        if isinstance(saver, ModelCheckpoint) and saver.dirpath:
            newest = saver.last_model_path or (None if saver.monitor else saver.best_model_path)
            own = Path(saver.dirpath) / f"guarded-step={trainer.global_step}.ckpt"
            trainer.save_checkpoint(newest or own)
