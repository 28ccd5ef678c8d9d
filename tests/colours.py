"""Small colour images and a stage 2 for them."""

import torch

from vaebm.datamodules import ImageDataModule
from vaebm.datamodules.base import Splits, Tensors
from vaebm.ebm_stage import EBMStage
from vaebm.models import DenseVAE, ResidualEnergy
from vaebm.noise import generator_for
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace


class Colours(ImageDataModule):
    """Random images of 3×8×8 pixels, an odd number of them.

    Args:
        seed: Seed of the images.
        batch_size: Images in a batch.
    """

    def __init__(self, seed: int = 0, batch_size: int = 7) -> None:
        super().__init__(batch_size, 0)
        self.save_hyperparameters()
        self.seed = seed

    def splits(self) -> Splits:
        """Three parts."""
        images = (
            torch.rand(n, 3, 8, 8, generator=generator_for(self.seed, n)) for n in (63, 9, 33)
        )
        return Splits(*(Tensors((image * 255).round() / 255) for image in images))


def stage() -> EBMStage:
    """A small energy of colour images on a small VAE, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = DenseVAE((3, 8, 8), latent_dim=2, width=8, depth=1)
        energy = ResidualEnergy(3, channels=4, multipliers=(1, 2), halvings=(0,))
    sampler = LangevinSampler(2, step_size=0.01)
    return EBMStage(energy, sampler, NoiseSpace(), vae=vae, lr=1e-2, seed=5)
