"""Sets of photographs: a folder on disk, mirror images in training."""

from typing import Any

import torch
from torch import Generator, Tensor

from vaebm.datamodules.base import ImageDataModule
from vaebm.noise import Purpose, generator_for, run_seed


class PhotoDataModule(ImageDataModule):
    """Base of the sets of photographs: in training each is mirrored with probability ½.

    The draws are a function of (seed, rank, number of the batch in the whole training), so that a
    resumed run mirrors what the uninterrupted one would have mirrored.

    Args:
        root: Folder that holds the files.
        batch_size: Images in a batch.
        flip: Mirror training images at random.
        num_workers: Worker processes of each loader; 0 loads in the main process.
    """

    def __init__(self, root: str, batch_size: int, flip: bool, num_workers: int) -> None:
        super().__init__(batch_size, num_workers)
        self.root = root
        self.flip = flip

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Mirror about half the images of a training batch, on their device."""
        if not (self.flip and self.trainer is not None and self.trainer.training):
            return batch
        # Lightning counts a batch after this hook: the index is still that of the one before.
        number = self.trainer.fit_loop.total_batch_idx + 1
        image, *labels = batch
        place = (Purpose.FLIPS, run_seed(), self.trainer.global_rank, number)
        return mirror_some(image, generator_for(*place, device=image.device)), *labels


def mirror_some(image: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability ½.

    Args:
        image: Images, ``(B, C, H, W)``.
        generator: Source of the choice, on the device of the images.

    Returns:
        Images, ``(B, C, H, W)``.
    """
    choice = torch.rand(len(image), 1, 1, 1, generator=generator, device=image.device)
    return torch.where(choice < 0.5, image.flip(-1), image)
