"""Datamodules: one file per data set family, and the registry."""

from vaebm.datamodules.base import ImageDataModule, datamodules
from vaebm.datamodules.celeba import CelebA64DataModule
from vaebm.datamodules.celebahq import CelebAHQ256DataModule
from vaebm.datamodules.cifar import CIFAR10DataModule
from vaebm.datamodules.digits import DigitsDataModule
from vaebm.datamodules.lsun import LSUNChurch64DataModule
from vaebm.datamodules.mnist import MNISTDataModule, StackedMNISTDataModule
from vaebm.datamodules.toys import Gaussians25DataModule

__all__ = [
    "CIFAR10DataModule",
    "CelebA64DataModule",
    "CelebAHQ256DataModule",
    "DigitsDataModule",
    "Gaussians25DataModule",
    "ImageDataModule",
    "LSUNChurch64DataModule",
    "MNISTDataModule",
    "StackedMNISTDataModule",
    "datamodules",
]
