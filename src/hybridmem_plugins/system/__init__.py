"""The whole: a question goes through memory, context synthesis and model, and comes back as a grounded answer.

No framework and nothing heavy is imported here; a model or retriever of any framework is recognised by its methods.
"""

from __future__ import annotations

from hybridmem_plugins.system.answer import Answer, NumberedFact, Source
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem
from hybridmem_plugins.system.models import ChatModel, Reply, as_chat_model
from hybridmem_plugins.system.retrievers import Retriever, as_retriever
from hybridmem_plugins.system.synthesis import Context, Synthesis

__all__ = [
    "Answer",
    "ChatModel",
    "Context",
    "HybridMemorySystem",
    "NumberedFact",
    "Reply",
    "Retriever",
    "Source",
    "Synthesis",
    "as_chat_model",
    "as_retriever",
]
