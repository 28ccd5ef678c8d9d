"""Lightning callbacks: pictures, evaluation, files."""

from vaebm.callbacks.annealed_likelihood import AnnealedLikelihood
from vaebm.callbacks.chain_report import ChainReport
from vaebm.callbacks.classifier_frechet import ClassifierFrechet
from vaebm.callbacks.divergence_guard import DivergenceGuard
from vaebm.callbacks.ood_detection import OODDetection
from vaebm.callbacks.result_files import MetricsFile, PredictionsFile
from vaebm.callbacks.sample_grid import SampleGrid
from vaebm.callbacks.sample_quality import SampleQuality
from vaebm.callbacks.sample_steps import SampleSteps
from vaebm.callbacks.stacked_modes import StackedModes
from vaebm.callbacks.toy_evaluation import ToyEvaluation

__all__ = [
    "AnnealedLikelihood",
    "ChainReport",
    "ClassifierFrechet",
    "DivergenceGuard",
    "MetricsFile",
    "OODDetection",
    "PredictionsFile",
    "SampleGrid",
    "SampleQuality",
    "SampleSteps",
    "StackedModes",
    "ToyEvaluation",
]
