"""The decision matrix: four ways to build the same assistant, measured on one's own questions."""

from __future__ import annotations

from hybridmem_plugins.comparison.questions import Benchmark, Question, load_benchmark
from hybridmem_plugins.comparison.ways import WAYS, Comparison, Way, compare

__all__ = ["WAYS", "Benchmark", "Comparison", "Question", "Way", "compare", "load_benchmark"]
