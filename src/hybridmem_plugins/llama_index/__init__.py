"""LlamaIndex components: thin translations of the core.

Install them with `pip install 'hybridmem-plugins[llama-index]'`. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.errors import require

if TYPE_CHECKING:
    from hybridmem_plugins.llama_index.augmenter import NoisyContextAugmenter, NoisyContextPostprocessor
    from hybridmem_plugins.llama_index.engine import as_vector_engine
    from hybridmem_plugins.llama_index.graph_engine import as_graph_engine
    from hybridmem_plugins.llama_index.graph_store import NetworkXPropertyGraphStore
    from hybridmem_plugins.llama_index.llm import FinetunedLLM
    from hybridmem_plugins.llama_index.query_engine import HybridQueryEngine
    from hybridmem_plugins.llama_index.retriever import HybridRetriever
    from hybridmem_plugins.llama_index.tracing import RetrievalTraceHandler
    from hybridmem_plugins.llama_index.vector_store import HnswVectorStore

_HOMES = {
    "FinetunedLLM": "llm",
    "HnswVectorStore": "vector_store",
    "HybridQueryEngine": "query_engine",
    "HybridRetriever": "retriever",
    "NetworkXPropertyGraphStore": "graph_store",
    "NoisyContextAugmenter": "augmenter",
    "NoisyContextPostprocessor": "augmenter",
    "RetrievalTraceHandler": "tracing",
    "as_graph_engine": "graph_engine",
    "as_vector_engine": "engine",
}

__all__ = [
    "FinetunedLLM",
    "HnswVectorStore",
    "HybridQueryEngine",
    "HybridRetriever",
    "NetworkXPropertyGraphStore",
    "NoisyContextAugmenter",
    "NoisyContextPostprocessor",
    "RetrievalTraceHandler",
    "as_graph_engine",
    "as_vector_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins.llama_index' has no attribute {name!r}"
        raise AttributeError(msg)
    require("llama_index.core", "llama-index")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
