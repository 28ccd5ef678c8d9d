"""Networks: the contracts of a VAE and an energy, and the ones that come with the package."""

from vaebm.models.base import VAE, Decoded, ElboTerms, Energy, NoiseDecoder, models
from vaebm.models.conv import ConvEnergy, ConvVAE
from vaebm.models.dense import DenseVAE
from vaebm.models.energy import ResidualEnergy
from vaebm.models.mlp import MLPVAE, MLPEnergy
from vaebm.models.nvae import NVAE

__all__ = [
    "MLPVAE",
    "NVAE",
    "VAE",
    "ConvEnergy",
    "ConvVAE",
    "Decoded",
    "DenseVAE",
    "ElboTerms",
    "Energy",
    "MLPEnergy",
    "NoiseDecoder",
    "ResidualEnergy",
    "models",
]
