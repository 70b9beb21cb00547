"""LangChain `Embeddings` as an embedder of the memory."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from hybridmem_plugins.async_embedding import AsyncEmbedder, awaits
from hybridmem_plugins.memory.embedding import Embedder


def to_embedder(embedding: Any) -> Embedder | None:
    """Return an embedder for the memory; None, which stands for the bundled one, stays None.

    Async methods are used where the class has its own that await something.

    Raises:
        TypeError: It has no `embed_documents` and `embed_query`.
    """
    if embedding is None:
        return None
    if not (
        callable(getattr(embedding, "embed_documents", None)) and callable(getattr(embedding, "embed_query", None))
    ):
        msg = (
            "embedding must be a LangChain Embeddings (or have embed_documents and embed_query), "
            f"not {type(embedding).__name__}"
        )
        raise TypeError(msg)
    if not isinstance(embedding, Embeddings):
        plain: Embedder = embedding
        return plain
    kind = type(embedding)
    return AsyncEmbedder(
        f"{kind.__module__}.{kind.__qualname__}",
        embedding.embed_documents,
        embedding.embed_query,
        _native(embedding, "aembed_documents"),
        _native(embedding, "aembed_query"),
    )


def _native(embedding: Embeddings, name: str) -> Any:
    method = getattr(type(embedding), name)
    # LangChain's own methods run the blocking ones in a thread, where the search is already.
    return None if method is getattr(Embeddings, name) or not awaits(method) else getattr(embedding, name)
