"""Any LangChain vector store as a memory's vector database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from hybridmem_plugins.engines.pushing import Compared, Push

_ID = "hybridmem_id"
_GIVEN: ContextVar[Mapping[str, list[float]] | None] = ContextVar("hybridmem_given", default=None)


class GivenVectors(Embeddings):
    """The embedding of a store that is a memory's own: it hands on the vectors that the memory has made already.

    Args:
        dimension: Length of the vectors; some stores ask for it by embedding a text.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors that the memory is storing."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector that the memory is storing; outside of it, one that only shows the length."""
        given = _GIVEN.get()
        return [1.0] + [0.0] * (self.dimension - 1) if given is None else given[text]


def as_vector_engine(
    vector_store: VectorStore, to_filter: Callable[[Push], Any] | None = None, name: str | None = None
) -> LangChainVectors:
    """Return what `HybridMemory(path="folder", vectors=...)` takes, for a vector store that is the memory's own.

    Args:
        vector_store: Compares by cosine; made with `GivenVectors` as its embedding.
        to_filter: Turns a condition into the `filter` of the store's searches; None knows Qdrant's form, and asks
            other stores without a filter, which is right and slower, since more has to be asked for.
        name: Tells it from others; None takes its class and collection. A memory that meets another name gives that
            store all its vectors.

    Raises:
        TypeError: The store embeds by itself.
    """
    if not isinstance(vector_store.embeddings, GivenVectors):
        msg = "the vector store would embed everything again: make it with embedding=GivenVectors(dimension)"
        raise TypeError(msg)
    if to_filter is None and type(vector_store).__name__ == "QdrantVectorStore":
        to_filter = to_qdrant_filter
    return LangChainVectors(vector_store, to_filter, name)


class LangChainVectors:
    """Translates between a memory and a `VectorStore`."""

    def __init__(self, vector_store: VectorStore, to_filter: Callable[[Push], Any] | None, name: str | None) -> None:
        self._store = vector_store
        self._to_filter = to_filter
        self.name = name or f"{type(vector_store).__name__}:{getattr(vector_store, 'collection_name', '')}"

    def upsert(self, ids: Sequence[str], vectors: Any, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Store vectors; those of the same id are replaced."""
        # The text stands for the vector; the passage's own text is in the memory.
        documents = [
            Document(identity, id=identity, metadata={**values, _ID: identity})
            for identity, values in zip(ids, metadata, strict=True)
        ]
        token = _GIVEN.set(dict(zip(ids, vectors.tolist(), strict=True)))
        try:
            self._store.add_documents(documents, ids=list(ids))
        finally:
            _GIVEN.reset(token)

    def delete(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        self._store.delete(list(ids))

    def search(self, vector: Any, k: int, push: Push | None) -> list[str]:
        """Return the ids of the k nearest that pass, best first."""
        options = {} if push is None or self._to_filter is None else {"filter": self._to_filter(push)}
        found = self._store.similarity_search_by_vector(vector.tolist(), k=k, **options)
        return [str(document.metadata[_ID]) for document in found]


def to_qdrant_filter(push: Push) -> Any:
    """Return a condition in Qdrant's form, over the payload of `QdrantVectorStore`."""
    from qdrant_client import models

    if isinstance(push, Compared):
        key = f"metadata.{push.key}"
        if push.operator == "=":
            return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=push.value))])
        if push.operator == "in":
            return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchAny(any=push.value))])
        bound = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}[push.operator]
        return models.Filter(must=[models.FieldCondition(key=key, range=models.Range(**{bound: push.value}))])
    parts = [to_qdrant_filter(part) for part in push.parts]
    return models.Filter(must=parts) if push.logic == "and" else models.Filter(should=parts)
