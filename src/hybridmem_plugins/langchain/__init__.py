"""LangChain components: thin translations of the core.

Install them with `pip install 'hybridmem-plugins[langchain]'`. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.errors import require

if TYPE_CHECKING:
    from hybridmem_plugins.langchain.augmenter import NoisyContextAugmenter
    from hybridmem_plugins.langchain.chain import HybridChain, create_hybrid_chain
    from hybridmem_plugins.langchain.chat_model import FinetunedChatModel
    from hybridmem_plugins.langchain.engine import GivenVectors, as_vector_engine
    from hybridmem_plugins.langchain.graph import (
        GraphDocumentExtractor,
        as_networkx,
        documents_from_entity_graph,
        to_networkx_entity_graph,
        triples,
    )
    from hybridmem_plugins.langchain.retriever import HybridRetriever
    from hybridmem_plugins.langchain.tracing import RetrievalTraceHandler
    from hybridmem_plugins.langchain.vector_store import HnswVectorStore

_HOMES = {
    "FinetunedChatModel": "chat_model",
    "GivenVectors": "engine",
    "GraphDocumentExtractor": "graph",
    "HnswVectorStore": "vector_store",
    "HybridChain": "chain",
    "HybridRetriever": "retriever",
    "NoisyContextAugmenter": "augmenter",
    "RetrievalTraceHandler": "tracing",
    "as_networkx": "graph",
    "as_vector_engine": "engine",
    "create_hybrid_chain": "chain",
    "documents_from_entity_graph": "graph",
    "to_networkx_entity_graph": "graph",
    "triples": "graph",
}

__all__ = [
    "FinetunedChatModel",
    "GivenVectors",
    "GraphDocumentExtractor",
    "HnswVectorStore",
    "HybridChain",
    "HybridRetriever",
    "NoisyContextAugmenter",
    "RetrievalTraceHandler",
    "as_networkx",
    "as_vector_engine",
    "create_hybrid_chain",
    "documents_from_entity_graph",
    "to_networkx_entity_graph",
    "triples",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins.langchain' has no attribute {name!r}"
        raise AttributeError(msg)
    require("langchain_core", "langchain")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
