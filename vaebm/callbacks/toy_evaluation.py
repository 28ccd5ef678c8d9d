"""Exact evaluation of 2-D toys after testing."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vaebm.callbacks.draws import draw_panels
from vaebm.datamodules.toys import GaussianModesDataModule, ToyDataModule
from vaebm.errors import UsageError
from vaebm.metrics import GridLikelihood, ModeCoverage


class ToyEvaluation(Callback):
    """Logs the exact likelihood of a model of 2-D points, and the coverage of modes if there are.

    After a test: ``test/nll_true``, ``test/nll_vae`` and ``test/nll_vaebm`` in nats on the same
    test points, the last two by quadrature (`GridLikelihood`), and of samples ``test/modes``,
    ``test/high_quality`` (within 4 standard deviations of a centre) and ``test/mode_kl``; the VAE's
    own under the same names with ``_vae``. How far to trust the quadrature: ``test/mass`` of p_θ on
    the grid is 1, ``test/edge_mass`` of the VAEBM 0, and ``test/quadrature_error`` is what leaving
    out every second grid point changes. An energy on x alone has no ``nll_vaebm``.

    Args:
        num_samples: Samples of each model for the mode coverage.
        num_steps: Steps of a chain, instead of the number it was trained with.
        spacing: Distance of grid points; a quarter of a mode's standard deviation is plenty.
        num_draws: Prior draws that stand for p_θ, a power of two.
    """

    def __init__(
        self,
        num_samples: int = 10_000,
        num_steps: int | None = None,
        spacing: float = 0.0125,
        num_draws: int = 2**17,
    ) -> None:
        self.num_samples = num_samples
        self.num_steps = num_steps
        self.spacing = spacing
        self.num_draws = num_draws

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate and log; every rank computes the same."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ToyDataModule):
            raise UsageError("ToyEvaluation needs data with a known density, such as gaussians25")
        points = data.parts.test[:][0].to(pl_module.device)
        figures = {
            "nll_true": -data.log_prob(points.double()).mean(),
            **self._likelihood(pl_module, points),
            **(self._modes(pl_module, data) if isinstance(data, GaussianModesDataModule) else {}),
        }
        pl_module.log_dict({f"test/{name}": value.float() for name, value in figures.items()})

    def _likelihood(self, pl_module: LightningModule, points: Tensor) -> dict[str, Tensor]:
        space = getattr(pl_module, "space", None)
        energy = pl_module.energy if space is not None and space.includes_vae else None
        metric = GridLikelihood(
            pl_module.vae,  # type: ignore[arg-type]
            energy,  # type: ignore[arg-type]
            spacing=self.spacing,
            num_draws=self.num_draws,
        )
        metric.update(points)
        return metric.compute()

    def _modes(
        self, pl_module: LightningModule, data: GaussianModesDataModule
    ) -> dict[str, Tensor]:
        figures: dict[str, Tensor] = {}
        precision = pl_module.trainer.precision_plugin.forward_context
        panels = draw_panels(
            pl_module, self.num_samples, num_steps=self.num_steps, precision=precision
        )
        for title, samples in panels.items():
            coverage = ModeCoverage(data.centers, radius=4 * data.std).to(samples.device)
            coverage.update(samples)
            suffix = "_vae" if title == "VAE" else ""
            figures |= {name + suffix: value for name, value in coverage.compute().items()}
        return figures
