"""The decision matrix: four ways to build the same assistant, measured on one's own questions.

Names are loaded on first use, so that the command line can list its command quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridmem_plugins.comparison.questions import Benchmark, Question, load_benchmark
    from hybridmem_plugins.comparison.ways import WAYS, Comparison, Way, compare

_HOMES = {
    "WAYS": "ways", "Benchmark": "questions", "Comparison": "ways", "Question": "questions", "Way": "ways",
    "compare": "ways", "load_benchmark": "questions",
}  # fmt: skip

__all__ = ["WAYS", "Benchmark", "Comparison", "Question", "Way", "compare", "load_benchmark"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins.comparison' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
