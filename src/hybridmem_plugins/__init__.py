"""Style and robust reasoning in the weights, substance in an external memory.

The names below are loaded on first use, so that importing the package stays fast and pulls in no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
    from hybridmem_plugins.augmentation.profile import NoiseProfile
    from hybridmem_plugins.generation.local_model import LocalModel
    from hybridmem_plugins.hybrid_memory import HybridMemory
    from hybridmem_plugins.memory.graph import KnowledgeGraph
    from hybridmem_plugins.memory.vectors import VectorIndex
    from hybridmem_plugins.passage import Passage
    from hybridmem_plugins.retrieval.explain import Explanation
    from hybridmem_plugins.retrieval.model import Fact, Hit
    from hybridmem_plugins.system.answer import Answer
    from hybridmem_plugins.system.hybrid_system import HybridMemorySystem

_HOMES = {
    "Answer": "hybridmem_plugins.system.answer",
    "Explanation": "hybridmem_plugins.retrieval.explain",
    "Fact": "hybridmem_plugins.retrieval.model",
    "Hit": "hybridmem_plugins.retrieval.model",
    "HybridMemory": "hybridmem_plugins.hybrid_memory",
    "HybridMemorySystem": "hybridmem_plugins.system.hybrid_system",
    "KnowledgeGraph": "hybridmem_plugins.memory.graph",
    "LocalModel": "hybridmem_plugins.generation.local_model",
    "NoiseProfile": "hybridmem_plugins.augmentation.profile",
    "NoisyContextAugmenter": "hybridmem_plugins.augmentation.augmenter",
    "Passage": "hybridmem_plugins.passage",
    "VectorIndex": "hybridmem_plugins.memory.vectors",
}

__all__ = [
    "Answer",
    "Explanation",
    "Fact",
    "Hit",
    "HybridMemory",
    "HybridMemorySystem",
    "KnowledgeGraph",
    "LocalModel",
    "NoiseProfile",
    "NoisyContextAugmenter",
    "Passage",
    "VectorIndex",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
