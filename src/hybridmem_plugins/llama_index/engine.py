"""Any LlamaIndex vector store as a memory's vector database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

from hybridmem_plugins.engines.pushing import Compared, Push

_OPERATORS = {
    "=": FilterOperator.EQ, "in": FilterOperator.IN, ">": FilterOperator.GT, ">=": FilterOperator.GTE,
    "<": FilterOperator.LT, "<=": FilterOperator.LTE,
}  # fmt: skip


def as_vector_engine(vector_store: BasePydanticVectorStore, name: str | None = None) -> LlamaIndexVectors:
    """Return what `HybridMemory(path="folder", vectors=...)` takes, for a vector store that is the memory's own.

    Args:
        vector_store: Compares by cosine, for vectors as long as the embedder's.
        name: Tells it from others; None takes its class and collection. A memory that meets another name gives that
            store all its vectors.
    """
    return LlamaIndexVectors(vector_store, name)


class LlamaIndexVectors:
    """Translates between a memory and a `BasePydanticVectorStore`."""

    def __init__(self, vector_store: BasePydanticVectorStore, name: str | None = None) -> None:
        self._store = vector_store
        self.name = name or f"{type(vector_store).__name__}:{getattr(vector_store, 'collection_name', '')}"

    def upsert(self, ids: Sequence[str], vectors: Any, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Store vectors; those of the same id are replaced."""
        nodes = [
            TextNode(id_=identity, text=" ", embedding=vector, metadata=dict(values))
            for identity, vector, values in zip(ids, vectors.tolist(), metadata, strict=True)
        ]
        # Not every store's `add` replaces. One that has no collection yet has nothing to replace, and may say so by any
        # error; one that is down says so when adding.
        with suppress(Exception):
            self.delete(ids)
        self._store.add(nodes)

    def delete(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        self._store.delete_nodes(list(ids))

    def search(self, vector: Any, k: int, push: Push | None) -> list[str]:
        """Return the ids of the k nearest that pass, best first."""
        query = VectorStoreQuery(
            query_embedding=vector.tolist(),
            similarity_top_k=k,
            filters=None if push is None else to_metadata_filters(push),
        )
        return list(self._store.query(query).ids or [])


def to_metadata_filters(push: Push) -> MetadataFilters:
    """Return a condition in LlamaIndex's form, which each vector store turns into its own."""
    if isinstance(push, Compared):
        one = MetadataFilter(key=push.key, operator=_OPERATORS[push.operator], value=push.value)
        return MetadataFilters(filters=[one])
    parts: list[Any] = [to_metadata_filters(part) for part in push.parts]
    plain = [part.filters[0] if len(part.filters) == 1 else part for part in parts]
    condition = FilterCondition.AND if push.logic == "and" else FilterCondition.OR
    return MetadataFilters(filters=plain, condition=condition)
