"""VAEBM: an energy-based model on top of a variational autoencoder, on PyTorch Lightning.

References:
    VAEBM: A Symbiosis between Variational Autoencoders and Energy-based Models
    (Xiao, Kreis, Kautz, Vahdat, ICLR 2021).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vaebm")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0.0.0"
