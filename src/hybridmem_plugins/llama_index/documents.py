"""Which documents the nodes of a memory are parts of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, Document

from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.llama_index.nodes import REF_DOC, REF_HASH
from hybridmem_plugins.passage import Passage


class StoredDocuments:
    """The documents behind the nodes of a memory.

    Args:
        memory: Holds the nodes.
    """

    def __init__(self, memory: HybridMemory) -> None:
        self._memory = memory

    def delete(self, ref_doc_id: str) -> None:
        """Forget all nodes of a document.

        Raises:
            TypeError: The id is no string.
        """
        if not isinstance(ref_doc_id, str):
            msg = f"ref_doc_id must be a string, not {type(ref_doc_id).__name__}"
            raise TypeError(msg)
        self._memory.delete_where({REF_DOC: ref_doc_id})

    def changed(self, documents: Sequence[Document]) -> list[bool]:
        """Return for each document whether it is not stored just so.

        Raises:
            TypeError: Something is no `Document`.
            ValueError: Two documents have the same id.
        """
        for position, document in enumerate(documents):
            if not isinstance(document, Document):
                msg = f"document {position} is a {type(document).__name__}, not a LlamaIndex Document"
                raise TypeError(msg)
        ids = [document.node_id for document in documents]
        first: dict[str, int] = {}
        for position, identity in enumerate(ids):
            if first.setdefault(identity, position) != position:
                msg = f"documents {first[identity]} and {position} have the same id {identity!r}"
                raise ValueError(msg)
        # Of a refresh that was interrupted, nodes of two versions are stored.
        hashes: dict[str, set[Any]] = {identity: set() for identity in ids}
        for passage in self._nodes(ids):
            hashes[str(passage.metadata[REF_DOC])].add(passage.metadata.get(REF_HASH))
        return [hashes[document.node_id] != {document.hash} for document in documents]

    def keep_only(self, documents: Sequence[Document], nodes: Sequence[BaseNode]) -> None:
        """Forget nodes of these documents that are not among those given."""
        kept = {node.node_id for node in nodes}
        stale = [str(p.id) for p in self._nodes([document.node_id for document in documents]) if p.id not in kept]
        self._memory.delete(stale)

    def _nodes(self, ref_doc_ids: Sequence[str]) -> list[Passage]:
        if not ref_doc_ids:
            return []
        with self._memory.store.reading() as store:
            found: list[Passage] = store.passages(store.matching({REF_DOC: {"$in": list(ref_doc_ids)}}))
        return found
