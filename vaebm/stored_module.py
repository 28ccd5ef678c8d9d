"""LightningModules whose checkpoints hold all that rebuilds them, as plain data and without NaN."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule

from vaebm.checkpoints.io import AtomicCheckpointIO
from vaebm.checkpoints.stop_on_signal import StopOnSignal
from vaebm.configurable import Configurable, class_path, to_config
from vaebm.errors import DataError, UsageError


class StoredModule(Configurable, LightningModule):
    """Base of everything that `vaebm fit` trains."""

    def store_hyperparameters(self) -> None:
        """Store the constructor's arguments as plain data, made by the command line or by hand.

        The two extra keys are LightningCLI's: with them ``load_from_checkpoint`` rebuilds all
        nested objects.
        """
        self.save_hyperparameters(
            {
                **to_config(self)["init_args"],
                "_class_path": class_path(type(self)),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            }
        )

    def configure_callbacks(self) -> list[Callback]:
        """Save once more when the training is asked to end."""
        return [StopOnSignal()]

    def setup(self, stage: str) -> None:
        """Have checkpoints written whole or not at all; go on from one on all processes."""
        AtomicCheckpointIO.use_in(self.trainer)
        strategy, path = self.trainer.strategy, str(self.trainer.ckpt_path)
        if not strategy.reduce_boolean_decision(path == strategy.broadcast(path)):
            raise UsageError(
                f"processes would go on from different checkpoints, one from {path}: another "
                "training writes to the same folder; name the checkpoint with --ckpt_path"
            )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; those of another architecture are refused in one line."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            lines = str(error).splitlines()[1:] or [str(error)]
            reason = next((line for line in lines if "size mismatch" in line), lines[0])
            raise UsageError(
                f"the checkpoint's weights do not fit this {type(self).__name__}: "
                f"{reason.strip()[:150]} ...; give no config or option that changes the model"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the figures; keep NaN out of files, whatever made it: the one before stays."""
        weights = {**checkpoint["state_dict"], **checkpoint.get("current_model_state", {})}
        for name, value in weights.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise DataError(
                    f"training diverged: {name} holds NaN or infinity at step {self.global_step}; "
                    "the last checkpoint is sound, lower the learning rate or the step size"
                )
        # `vaebm convert` saves what no trainer has had.
        metrics = self._trainer.callback_metrics if self._trainer is not None else {}
        checkpoint["metrics"] = {name: float(value) for name, value in metrics.items()}
