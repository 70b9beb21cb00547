"""LangChain components: thin translations of the core.

Install them with `pip install 'hybridmem-plugins[langchain]'`. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.errors import require

if TYPE_CHECKING:
    from hybridmem_plugins.langchain.retriever import HybridRetriever

_HOMES = {
    "FinetunedChatModel": "chat_model",
    "HnswVectorStore": "vector_store",
    "HybridRetriever": "retriever",
    "NoisyContextAugmenter": "augmenter",
    "as_networkx": "graph",
    "from_networkx_entity_graph": "graph",
    "passages_from_graph_documents": "graph",
    "to_networkx_entity_graph": "graph",
}

__all__ = ["HybridRetriever"]


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
