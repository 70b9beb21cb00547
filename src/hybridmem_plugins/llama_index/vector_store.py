"""The semantic tier alone, as a LlamaIndex vector store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from pydantic import PrivateAttr

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.llama_index.fields import KnownFields
from hybridmem_plugins.llama_index.files import FileSystem, open_text, write_text
from hybridmem_plugins.llama_index.filters import to_filter
from hybridmem_plugins.llama_index.nodes import REF_DOC, to_node, to_passages, with_text
from hybridmem_plugins.memory.filters import both_filters, compile_filter
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.nearest import nearest, nearest_diverse

FORMAT = 1
DEFAULT_NAMESPACE = "default"


class HnswVectorStore(KnownFields, BasePydanticVectorStore):
    """Vector store on hnswlib: higher scores are better; deletes, nested filters, any k and many threads work.

    Similarities are cosines, between -1 and 1.

    Args:
        path: Folder in which every change is kept at once; made when missing, opened when it holds a memory. None
            keeps everything in memory, until `persist`. Pickled, such a store takes along what it holds; one with a
            folder opens it again.

    Raises:
        ValueError: A setting is unknown.

    Examples:
        `pip install 'hybridmem-plugins[llama-index]'`

        ```python
        from hybridmem_plugins.llama_index import HnswVectorStore

        storage_context = StorageContext.from_defaults(vector_store=HnswVectorStore())
        index = VectorStoreIndex(nodes, storage_context=storage_context)
        storage_context.persist("storage")
        vector_store = HnswVectorStore.from_persist_dir("storage")
        ```
    """

    stores_text: bool = True
    path: str | None = None

    _store: MemoryStore = PrivateAttr()

    def __init__(self, path: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**{"path": None if path is None else str(path), **kwargs})
        self._store = MemoryStore(self.path, graph=KnowledgeGraph())

    def __reduce__(self) -> tuple[Any, ...]:
        """Take along the contents of a store in memory, which LlamaIndex's components would leave behind."""
        return _made_again, (type(self), dict(self.__dict__), self._contents() if self.path is None else None)

    @classmethod
    def class_name(cls) -> str:
        """Name that LlamaIndex stores."""
        return "HnswVectorStore"

    @property
    def client(self) -> MemoryStore:
        """The store beneath."""
        return self._store

    def __len__(self) -> int:
        return len(self._store)

    def __bool__(self) -> bool:
        """Say yes, also while it is empty: LlamaIndex takes a store that is false for none given."""
        return True

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._store.close()

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Store nodes with their embeddings; the same id replaces, and of an id given twice the last counts.

        Nodes without text are left out and logged. What was stored under their ids is forgotten.

        Returns:
            The ids of all nodes given.

        Raises:
            ValueError: A node with text has no embedding.
        """
        last = {node.node_id: node for node in nodes}
        kept = with_text(last.values())
        self._store.add(to_passages(kept), [node.get_embedding() for node in kept] if kept else None)
        if len(kept) < len(last):
            self._store.delete(list(last.keys() - {node.node_id for node in kept}))
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Forget all nodes of a document; nothing where it is not stored."""
        if not isinstance(ref_doc_id, str):
            msg = f"ref_doc_id must be a string, not {type(ref_doc_id).__name__}"
            raise TypeError(msg)
        self._store.delete_where({REF_DOC: ref_doc_id})

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Forget nodes by id, by filter, or, where both are given, those of these ids that the filter allows.

        Raises:
            ValueError: Neither is given; `clear` forgets everything.
        """
        if node_ids is None and filters is None:
            msg = "give node_ids or filters; clear() deletes everything"
            raise ValueError(msg)
        self._store.delete([str(passage.id) for passage in self._passages(node_ids, filters)])

    def clear(self) -> None:
        """Forget all nodes."""
        self._store.delete([str(passage.id) for passage in self._passages(None, None)])

    # --- reading -------------------------------------------------------------------------------------------------

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the stored nodes among these ids that a filter allows; None stands for all."""
        return [to_node(passage) for passage in self._passages(node_ids, filters)]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes nearest to a vector, best first.

        Args:
            query: Its vector, `similarity_top_k`, `filters`, `node_ids`, `doc_ids` and the modes `default` and `mmr`
                (with `mmr_threshold` between 0 for difference and 1 for relevance) are followed. Empty lists of ids
                stand for all, as in LlamaIndex's own stores.
            **kwargs: `mmr_threshold` and `mmr_prefetch_k` (candidates, 20 unless told).

        Raises:
            ValueError: No vector is given, or the mode is another one.
        """
        if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            msg = f"HnswVectorStore has the modes 'default' and 'mmr', not {query.mode.value!r}"
            raise ValueError(msg)
        if query.query_embedding is None:
            msg = "the query has no embedding, and a vector store has no model to make one"
            raise ValueError(msg)
        # `VectorStoreIndex` asks with empty lists where it means all.
        k, ids = query.similarity_top_k, query.node_ids or None
        documents = {REF_DOC: {"$in": list(query.doc_ids)}} if query.doc_ids else None
        allowed = both_filters(to_filter(query.filters), documents)
        if query.mode == VectorStoreQueryMode.DEFAULT:
            found = nearest(self._store, query.query_embedding, k, allowed, ids)
        else:
            given = kwargs.get("mmr_threshold", query.mmr_threshold)
            found = nearest_diverse(
                self._store,
                query.query_embedding,
                k,
                allowed,
                ids,
                fetch_k=kwargs.get("mmr_prefetch_k") or 20,
                lambda_mult=0.5 if given is None else given,
            )
        return VectorStoreQueryResult(
            nodes=[to_node(one.passage) for one in found],
            similarities=[one.similarity for one in found],
            ids=[str(one.passage.id) for one in found],
        )

    # --- async twins ---------------------------------------------------------------------------------------------

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do as `add`, without blocking the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do as `delete`, without blocking the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Do as `delete_nodes`, without blocking the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        """Do as `clear`, without blocking the event loop."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do as `get_nodes`, without blocking the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do as `query`, without blocking the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    # --- files ---------------------------------------------------------------------------------------------------

    def persist(self, persist_path: str, fs: FileSystem | None = None) -> None:
        """Write everything as one JSON file, which `StorageContext` can also read as a `SimpleVectorStore`.

        Args:
            persist_path: The file.
            fs: File system; None is the local one.
        """
        write_text(persist_path, json.dumps(self._contents(), ensure_ascii=False), fs)

    def _contents(self) -> dict[str, Any]:
        with self._store.reading() as store:
            passages = self._passages(None, None)
            rows = [row for row in store.rows_of([str(p.id) for p in passages]) if row is not None]
            vectors = [] if store.vectors is None else store.vectors.vectors(rows).tolist()
        ids = [str(passage.id) for passage in passages]
        return {
            "embedding_dict": dict(zip(ids, vectors, strict=True)),
            "text_id_to_ref_doc_id": {str(p.id): p.metadata.get(REF_DOC, str(p.id)) for p in passages},
            "metadata_dict": {str(p.id): {k: v for k, v in p.metadata.items() if k[0:1] != "_"} for p in passages},
            "hybridmem": {
                "format": FORMAT,
                "passages": [{"id": p.id, "title": p.title, "text": p.text, "metadata": p.metadata} for p in passages],
            },
        }

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: FileSystem | None = None) -> Self:
        """Read what `persist` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            MemoryFormatError: The file was written by another store or a newer version.
        """
        with open_text(persist_path, fs) as file:
            data = json.load(file)
        own = data.get("hybridmem") if isinstance(data, dict) else None
        if not isinstance(own, dict) or own.get("format") != FORMAT:
            msg = f"{persist_path} was not written by this version of HnswVectorStore"
            raise MemoryFormatError(msg)
        made = cls()
        made._fill(data)
        return made

    def _fill(self, contents: dict[str, Any]) -> None:
        stored = contents["hybridmem"]["passages"]
        passages = [Passage(p["text"], p["title"], p["id"], p["metadata"]) for p in stored]
        if passages:
            self._store.add(passages, [contents["embedding_dict"][passage.id] for passage in passages])

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_NAMESPACE,
        fs: FileSystem | None = None,
    ) -> Self:
        """Read what `StorageContext.persist` wrote into a folder.

        Args:
            persist_dir: The folder.
            namespace: Name of the store in the `StorageContext`.
            fs: File system; None is the local one.
        """
        return cls.from_persist_path(f"{str(persist_dir).rstrip('/')}/{namespace}__{DEFAULT_PERSIST_FNAME}", fs)

    def _passages(self, node_ids: Sequence[str] | None, filters: MetadataFilters | None) -> list[Passage]:
        with self._store.reading() as store:
            if node_ids is not None:
                passages = store.passages([row for row in store.rows_of(node_ids) if row is not None])
                allowed = to_filter(filters)
                predicate = compile_filter({} if allowed is None else allowed)
                return [passage for passage in passages if predicate(passage.metadata)]
            mask = store.allowed(to_filter(filters))
            return store.passages(np.flatnonzero(store.metadata.live() if mask is None else mask))


def _made_again(
    kind: type[HnswVectorStore], fields: dict[str, Any], contents: dict[str, Any] | None
) -> HnswVectorStore:
    made = kind(**fields)
    if contents is not None:
        made._fill(contents)
    return made
