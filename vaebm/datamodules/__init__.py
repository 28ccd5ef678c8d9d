"""Datamodules: one file per data set family, and the registry."""

from vaebm.datamodules.base import ImageDataModule, datamodules
from vaebm.datamodules.celeba import CelebA64DataModule
from vaebm.datamodules.celebahq import CelebAHQ256DataModule
from vaebm.datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from vaebm.datamodules.digits import DigitsDataModule
from vaebm.datamodules.image_folder import ImageFolderDataModule
from vaebm.datamodules.lsun import LSUNChurch64DataModule
from vaebm.datamodules.mnist import MNISTDataModule, StackedMNISTDataModule
from vaebm.datamodules.svhn import SVHNDataModule
from vaebm.datamodules.toys import (
    CheckerboardDataModule,
    GaussianRingDataModule,
    Gaussians25DataModule,
    RingsDataModule,
)

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "CelebA64DataModule",
    "CelebAHQ256DataModule",
    "CheckerboardDataModule",
    "DigitsDataModule",
    "GaussianRingDataModule",
    "Gaussians25DataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "LSUNChurch64DataModule",
    "MNISTDataModule",
    "RingsDataModule",
    "SVHNDataModule",
    "StackedMNISTDataModule",
    "datamodules",
]
