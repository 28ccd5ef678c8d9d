"""Metrics: exact likelihoods of 2-D toys, mode coverage, Fréchet distance."""

from vaebm.metrics.frechet import FrechetDistance
from vaebm.metrics.likelihood import GridLikelihood
from vaebm.metrics.modes import ModeCoverage

__all__ = ["FrechetDistance", "GridLikelihood", "ModeCoverage"]
