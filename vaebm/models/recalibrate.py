"""New batch-norm statistics for sampling at a temperature."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from vaebm.models.base import NoiseDecoder


@torch.no_grad()
def recalibrate_batch_norm(
    decoder: NoiseDecoder, noise: Iterable[Tensor], *, temperature: float = 1.0
) -> None:
    """Move the running statistics of a generator's batch norms to those of its own samples.

    In training a generator sees the latents of posteriors; those of the prior, at a low temperature
    above all, have other statistics. Each batch of noise is decoded once in training mode. The
    decoder's modes are as before afterwards, and an encoder's batch norms do not change.

    Args:
        decoder: The generator.
        noise: Batches of noise, each ``(B, D)``.
        temperature: Factor on the scale of every latent group.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020), section 4.
    """
    norms = [module for module in decoder.modules() if isinstance(module, _BatchNorm)]
    modes = [norm.training for norm in norms]
    for norm in norms:
        norm.train()
    try:
        for eps in noise:
            decoder.decode(eps, temperature=temperature)
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)
