"""`vaebm benchmark`: how fast stage 2 is, next to a baseline and to what the machine can do."""

from vaebm.benchmark.measure import Settings, benchmark
from vaebm.benchmark.results import table, write

__all__ = ["Settings", "benchmark", "table", "write"]
