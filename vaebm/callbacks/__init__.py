"""Lightning callbacks: pictures, evaluation, files."""

from vaebm.callbacks.classifier_frechet import ClassifierFrechet
from vaebm.callbacks.result_files import MetricsFile, PredictionsFile
from vaebm.callbacks.sample_grid import SampleGrid
from vaebm.callbacks.toy_evaluation import ToyEvaluation

__all__ = [
    "ClassifierFrechet",
    "MetricsFile",
    "PredictionsFile",
    "SampleGrid",
    "ToyEvaluation",
]
