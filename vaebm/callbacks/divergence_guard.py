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

from vaebm.errors import UsageError

Saved = dict[str, Any]


class Snapshot(NamedTuple):
    """A state to return to, in CPU memory.

    Attributes:
        step: Training step at which it was taken.
        weights: Trained weights, and their averages if there are any.
        optimizers: State of each optimiser.
    """

    step: int
    weights: Saved
    optimizers: list[Saved]


class DivergenceGuard(Callback):
    """Returns to the last good weights before a training of stage 2 runs away.

    Energies grow sharper until chains of few steps can no longer follow them; then chains end where
    E is high, the contrast pushes E up there, and E runs away. The mean of the energy gap tells
    last. This guard watches, over `window` steps, what tells first: ``train/accept_prob`` (the
    step size is too large for E), ``train/state_square`` (chains leave the prior) and
    ``train/energy_magnitude``. When one leaves its range, or is no number, the weights, their
    averages and the optimiser return to a snapshot that is at least `lag` steps old, persistent
    chains start afresh, the learning rate is multiplied by `lr_factor`, and the stage's
    ``magnitude_weight`` becomes `magnitude_weight` if it was less. After `max_returns` returns the
    next sign ends the training, with the good weights in the last checkpoint.

    Args:
        min_accept: Smallest mean acceptance that a Metropolis test would have shown.
        max_state_square: Largest mean square of the chains' latents; N(0, I) has 1. None for chains
            in `JointSpace` and on points, whose scale is another.
        max_energy: Largest mean of |E|.
        window: Steps over which signs are averaged.
        lag: Steps that a snapshot must be old to be trusted; a sign comes after its cause.
        lr_factor: Factor on the learning rate at each return.
        magnitude_weight: Penalty on the magnitude of energies from the first return on; a lower
            learning rate alone delays most divergences and prevents few.
        max_returns: Returns before the training ends.
    """

    signs = ("accept_prob", "state_square", "energy_magnitude")

    def __init__(
        self,
        min_accept: float = 0.4,
        max_state_square: float | None = 3.0,
        max_energy: float = 500.0,
        window: int = 20,
        lag: int = 50,
        lr_factor: float = 0.5,
        magnitude_weight: float = 0.005,
        max_returns: int = 3,
    ) -> None:
        if not 0 <= min_accept < 1 or not 0 < lr_factor <= 1:
            raise UsageError("DivergenceGuard needs min_accept in [0, 1) and lr_factor in (0, 1]")
        if min(window, lag) < 1 or min(max_returns, magnitude_weight) < 0:
            raise UsageError(
                "DivergenceGuard needs window ≥ 1, lag ≥ 1, max_returns ≥ 0, magnitude_weight ≥ 0"
            )
        self.min_accept = min_accept
        self.max_state_square = max_state_square
        self.max_energy = max_energy
        self.window = window
        self.lag = lag
        self.lr_factor = lr_factor
        self.magnitude_weight = magnitude_weight
        self.max_returns = max_returns
        self.returns = 0
        self._recent: list[Tensor] = []
        self._snapshots: deque[Snapshot] = deque()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first snapshot; go on as before an interruption."""
        self._hold_energies(pl_module)
        self._recent.clear()
        self._snapshots = deque([_snapshot(trainer, pl_module)])

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Collect the signs; look at them once a window, which costs one synchronisation."""
        metrics = trainer.callback_metrics
        missing = torch.tensor(torch.inf, device=pl_module.device)
        values = [metrics.get(f"train/{name}", missing).detach() for name in self.signs]
        self._recent.append(torch.stack([value.float() for value in values]))
        if len(self._recent) < self.window:
            return
        means = torch.stack(self._recent).mean(0)
        self._recent.clear()
        means = trainer.strategy.reduce(means, reduce_op="mean")  # all ranks decide alike
        sign = self._alarm(*means.tolist())
        if sign:
            self._step_in(trainer, pl_module, sign)
        elif trainer.global_step >= self._snapshots[-1].step + self.lag:
            self._snapshots.append(_snapshot(trainer, pl_module))
            # One that is old enough is all it takes, and the younger ones that will be.
            while trainer.global_step >= self._snapshots[1].step + self.lag:
                self._snapshots.popleft()

    def _alarm(self, accept: float, square: float, energy: float) -> str | None:
        """The sign that left its range, in words; a sign that nobody logs is infinite."""
        if not accept >= self.min_accept:
            return f"chains' acceptance is {accept:.2f}, below {self.min_accept}"
        if not energy <= self.max_energy and energy != torch.inf:
            return f"the mean of |E| is {energy:.4g}, above {self.max_energy:g}"
        limit = self.max_state_square
        if limit is not None and not square <= limit and square != torch.inf:
            return f"the mean square of the chains' latents is {square:.2f}, above {limit:g}"
        return None

    def _step_in(self, trainer: Trainer, pl_module: LightningModule, sign: str) -> None:
        """Go back, and on with a lower learning rate or to the end."""
        good, step = self._snapshots[0], trainer.global_step
        _restore(trainer, pl_module, good)
        replay = getattr(pl_module, "replay", None)
        if replay is not None:
            replay.clear()
        text = f"step {step}: {sign}; back to the weights of step {good.step}"
        if self.returns == self.max_returns:
            rank_zero_warn(f"{text}. Training ends here, after {self.returns} returns")
            trainer.should_stop = True
            _rewrite_last_checkpoints(trainer)
            return
        self.returns += 1
        self._hold_energies(pl_module)
        _scale_learning_rates(trainer, self.lr_factor)
        self._snapshots = deque([good._replace(step=step)])
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        rank_zero_warn(f"{text}, learning rate {rate:.3g} (return {self.returns})")

    def _hold_energies(self, pl_module: LightningModule) -> None:
        """Switch the magnitude penalty on after a return."""
        weight = getattr(pl_module, "magnitude_weight", None)
        if self.returns and weight is not None:
            pl_module.magnitude_weight = max(weight, self.magnitude_weight)

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


def _snapshot(trainer: Trainer, pl_module: LightningModule) -> Snapshot:
    """Copy what training changes to CPU memory: not the frozen VAE."""
    weights = {
        part: {name: value for name, value in values.items() if not name.startswith("vae.")}
        for part, values in _weights(trainer, pl_module).items()
    }
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    saved = move_data_to_device((weights, optimizers), "cpu")
    return Snapshot(trainer.global_step, *copy.deepcopy(saved))


def _restore(trainer: Trainer, pl_module: LightningModule, snapshot: Snapshot) -> None:
    """Put a snapshot back; learning rates stay as they are."""
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


def _scale_learning_rates(trainer: Trainer, factor: float) -> None:
    """Multiply the learning rates now and those that the schedulers will set."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor
            if "initial_lr" in group:
                group["initial_lr"] *= factor
    for config in trainer.lr_scheduler_configs:
        config.scheduler.base_lrs = [rate * factor for rate in config.scheduler.base_lrs]


def _rewrite_last_checkpoints(trainer: Trainer) -> None:
    """Replace the newest checkpoints by one of the weights as they are now."""
    for saver in trainer.checkpoint_callbacks:
        if isinstance(saver, ModelCheckpoint) and saver.dirpath:
            path = saver.last_model_path or saver.best_model_path
            trainer.save_checkpoint(path or Path(saver.dirpath) / "last.ckpt")
