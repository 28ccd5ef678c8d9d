"""Metrics: exact likelihoods of 2-D toys, mode coverage, Fréchet distance, log Z."""

from vaebm.metrics.frechet import FrechetDistance
from vaebm.metrics.likelihood import GridLikelihood
from vaebm.metrics.modes import ModeCoverage
from vaebm.metrics.partition import AnnealedPartition

__all__ = ["AnnealedPartition", "FrechetDistance", "GridLikelihood", "ModeCoverage"]
