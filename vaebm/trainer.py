"""Lightning's Trainer with one more thing to do: sample."""

from pathlib import Path

from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from vaebm.checkpoint import read_checkpoint
from vaebm.errors import UsageError
from vaebm.sampling import SampleLoop, SampleOptions, check_output, gather, write_samples
from vaebm.stage import Stage


class VAEBMTrainer(Trainer):
    """Lightning's Trainer with `sample`."""

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
        numbers = {"num_samples": num_samples, "batch_size": batch_size, "num_steps": num_steps}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise UsageError(f"--{name} is {value}, but at least 1 is due")
        if temperature <= 0 or recalibrations < 0:
            raise UsageError("--temperature must be above 0, and --recalibrations 0 or more")
        if stretch and len(model.vae.image_shape) == 1:
            raise UsageError("--stretch is for images, but this model draws points")
        check_output(Path(output))
        model.load_state_dict(read_checkpoint(ckpt_path)["state_dict"])
        loop = SampleLoop(model, SampleOptions(seed, num_steps, mean, temperature, recalibrations))
        loader: DataLoader[int] = DataLoader(
            range(num_samples),  # type: ignore[arg-type]
            batch_size=batch_size,
        )
        samples = gather(self.predict(loop, loader))  # type: ignore[arg-type]
        if self.is_global_zero:
            write_samples(samples, Path(output), model, individual=individual, stretch=stretch)
            print(f"{num_samples} samples: {Path(output) / 'samples.npz'}, grid.png")
