"""Datamodules: one file per data set family, and the registry."""

from vaebm.datamodules.base import ImageDataModule, datamodules
from vaebm.datamodules.digits import DigitsDataModule
from vaebm.datamodules.toys import Gaussians25DataModule

__all__ = ["DigitsDataModule", "Gaussians25DataModule", "ImageDataModule", "datamodules"]
