"""LlamaIndex `BaseEmbedding` as an embedder of the memory."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding

from hybridmem_plugins.async_embedding import AsyncEmbedder, awaits
from hybridmem_plugins.memory.embedding import Embedder


def to_embedder(embed_model: Any) -> Embedder | None:
    """Return an embedder for the memory; None, which stands for the bundled one, stays None.

    Async methods are used where the model's own await something; many only call their blocking siblings.

    Raises:
        TypeError: It is no `BaseEmbedding` (and has no `embed_documents` and `embed_query` either).
    """
    if embed_model is None:
        return None
    if isinstance(embed_model, BaseEmbedding):
        return _adapter(embed_model)
    if callable(getattr(embed_model, "embed_documents", None)) and callable(getattr(embed_model, "embed_query", None)):
        plain: Embedder = embed_model
        return plain
    msg = f"embed_model must be a LlamaIndex BaseEmbedding, not {type(embed_model).__name__}"
    raise TypeError(msg)


def _adapter(model: BaseEmbedding) -> AsyncEmbedder:
    kind = type(model)
    many = kind._aget_text_embeddings is BaseEmbedding._aget_text_embeddings
    documents_await = awaits(kind._aget_text_embedding if many else kind._aget_text_embeddings)
    return AsyncEmbedder(
        f"{kind.__module__}.{kind.__qualname__}:{model.model_name}",
        model.get_text_embedding_batch,
        model.get_query_embedding,
        model.aget_text_embedding_batch if documents_await else None,
        model.aget_query_embedding if awaits(kind._aget_query_embedding) else None,
    )
