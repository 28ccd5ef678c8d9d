"""Metrics: likelihoods, log Z, mode coverage, and distances between sets of images."""

from vaebm.metrics.auroc import auroc
from vaebm.metrics.frechet import FrechetDistance
from vaebm.metrics.inception import ImageFeatures, InceptionFeatures
from vaebm.metrics.inception_score import InceptionScore
from vaebm.metrics.kernel_distance import KernelDistance
from vaebm.metrics.likelihood import GridLikelihood
from vaebm.metrics.modes import ClassCoverage, ModeCoverage
from vaebm.metrics.partition import AnnealedPartition

__all__ = [
    "AnnealedPartition",
    "ClassCoverage",
    "FrechetDistance",
    "GridLikelihood",
    "ImageFeatures",
    "InceptionFeatures",
    "InceptionScore",
    "KernelDistance",
    "ModeCoverage",
    "auroc",
]
