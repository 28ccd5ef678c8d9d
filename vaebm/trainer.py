"""Lightning's Trainer with more to do: sample and benchmark."""

from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch.utils.data import DataLoader

from vaebm.benchmark import Settings, benchmark, table, write
from vaebm.checkpoints.reading import read_checkpoint
from vaebm.ebm_stage import EBMStage
from vaebm.errors import UsageError
from vaebm.evaluation import batches
from vaebm.outputs import check_file, check_folder
from vaebm.sampling import SampleLoop, SampleOptions, gather, write_samples
from vaebm.stage import Stage


class VAEBMTrainer(Trainer):
    """Lightning's Trainer with `sample` and `benchmark`.

    Args:
        sync_batchnorm: Batch-norm statistics of all processes together, which needs GPUs.

    Raises:
        UsageError: If several processes on CPUs are to share statistics, or options make no sense.
    """

    def __init__(self, *args: Any, sync_batchnorm: bool = False, **kwargs: Any) -> None:
        try:
            super().__init__(*args, sync_batchnorm=sync_batchnorm, **kwargs)
        except ValueError as error:
            raise UsageError(f"trainer: {error}") from error
        if kwargs.get("fast_dev_run"):  # Lightning's still writes its last one
            saving, callbacks = self.checkpoint_callbacks, self.callbacks  # type: ignore[has-type]
            self.callbacks = [one for one in callbacks if one not in saving]
        if sync_batchnorm and self.world_size > 1 and isinstance(self.accelerator, CPUAccelerator):
            raise UsageError(
                "torch synchronises batch norm on GPUs alone: give --trainer.sync_batchnorm false"
            )

    def sample(
        self,
        model: Stage,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        num_samples: int = 64,
        output: str = "samples",
        seed: int = 0,
        batch_size: int = 100,
        num_steps: int | None = None,
        mean: bool = False,
        temperature: float = 1.0,
        recalibrations: int = 0,
        individual: bool = False,
        stretch: bool = False,
    ) -> None:
        """Draw samples from a checkpoint of either stage and write them to a folder.

        The folder gets ``samples.npz`` (``arr_0``: bytes N×H×W×C, which FID tools read; of 2-D toys
        float N×2) and ``grid.png``. The same seed gives the same samples at any batch size.

        Args:
            model: The stage.
            datamodule: Not used; accepted because a config may hold one.
            ckpt_path: Checkpoint of stage 2, or of stage 1 for samples of the VAE.
            weights_only: Not used; checkpoints are always loaded as weights only.
            num_samples: Number of samples.
            output: Folder to write to.
            seed: Seed of the samples.
            batch_size: Samples that are drawn at once.
            num_steps: Steps of a chain, instead of the number it was trained with.
            mean: Write the decoder's means at the chain ends, as the published code does.
            temperature: Factor on the scale of the VAE's latents, below 1 for cleaner and less
                varied samples; stage 1 only.
            recalibrations: Passes of 16 samples that renew the batch-norm statistics first, as NVAE
                does before sampling at a low temperature (500); stage 1 only.
            individual: Also write one PNG a sample.
            stretch: Stretch each image from black to white, lowest to highest value of all its
                colours, as the published code does with its means; images only.

        Raises:
            UsageError: If an argument makes no sense.
        """
        if ckpt_path is None:
            raise UsageError("vaebm sample needs --ckpt_path PATH of a checkpoint")
        if not isinstance(model, Stage):
            raise UsageError(
                f"{type(model).__name__} draws no samples: give a checkpoint of stage 1 or 2"
            )
        require_positive(num_samples=num_samples, batch_size=batch_size, num_steps=num_steps)
        if temperature <= 0 or recalibrations < 0:
            raise UsageError("--temperature must be above 0, and --recalibrations 0 or more")
        if stretch and len(model.vae.image_shape) == 1:
            raise UsageError("--stretch is for images, but this model draws points")
        limit = self.limit_predict_batches
        if limit != 1 or isinstance(limit, int):  # 1.0 is all of them
            raise UsageError("--trainer.limit_predict_batches is not for samples: --num_samples is")
        if isinstance(self.strategy.launcher, _MultiProcessingLauncher):
            raise UsageError("vaebm sample takes --trainer.strategy ddp, which starts programs")
        check_folder(Path(output))
        model.load_state_dict(read_checkpoint(ckpt_path)["state_dict"])
        loop = SampleLoop(model, SampleOptions(seed, num_steps, mean, temperature, recalibrations))
        parts = batches(num_samples, batch_size, self.world_size)
        if len(parts) < self.world_size:
            raise UsageError(f"{num_samples} samples are too few for {self.world_size} processes")
        # Batches are shared as they are, not dealt out anew.
        numbers: Any = [list(part) for part in parts]
        loader: DataLoader[Any] = DataLoader(numbers, collate_fn=itemgetter(0))
        samples = gather(self.predict(loop, loader))  # type: ignore[arg-type]
        if self.is_global_zero:
            write_samples(samples, Path(output), model, individual=individual, stretch=stretch)
            print(f"{len(samples)} samples: {Path(output) / 'samples.npz'}, grid.png")

    def benchmark(
        self,
        model: Stage,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
        batch_size: int = 4,
        num_steps: int | None = None,
        rounds: int = 3,
        compile: bool = True,
        scaling: bool = True,
        output: str = "benchmark.json",
    ) -> None:
        """Time stage 2 beside a straightforward implementation and this machine's limits.

        Times a Langevin step and a whole training iteration of a baseline that computes everything
        anew at each step, and of this package in float32, in bf16 and compiled, by turns. Prints
        medians with their range, ratios, the share of the time that the step's convolutions take
        alone, the peak of memory, samples per second, and how the cost grows with steps, batch and
        latent groups; writes them to a JSON file and draws them beside it. No data is needed, and
        no trained VAE: times do not depend on weights.

        Args:
            model: Stage 2.
            datamodule: Not used; accepted because a config may hold one.
            ckpt_path: Checkpoint of stage 2 to take the networks from.
            weights_only: Not used; checkpoints are always loaded as weights only.
            batch_size: Images and chains at once.
            num_steps: Steps of a chain, instead of the sampler's own number.
            rounds: How often each is timed.
            compile: Time compiled chains too, which takes minutes of compiling.
            scaling: Time other batches, chain lengths and numbers of groups too.
            output: JSON file to write.

        Raises:
            UsageError: If an argument makes no sense.
        """
        if not isinstance(model, EBMStage):
            raise UsageError(f"vaebm benchmark times stage 2, not {type(model).__name__}")
        if self.world_size > 1:
            raise UsageError("vaebm benchmark times one process: give --trainer.devices 1")
        require_positive(batch_size=batch_size, num_steps=num_steps, rounds=rounds)
        target = Path(output)
        check_file(target, replace=True)
        settings = Settings(batch_size, num_steps, rounds, compile, scaling)
        figures = benchmark(model.to(self.strategy.root_device), settings)
        print("\n".join(table(figures)))
        print(f"benchmark: {target} {write(figures, target)}")


def require_positive(**numbers: int | None) -> None:
    """Refuse options below 1.

    Raises:
        UsageError: Names the option.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}, but at least 1 is due")
