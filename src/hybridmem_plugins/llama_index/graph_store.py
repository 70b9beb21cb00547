"""A property graph store over networkx that forgets what it is told to forget, and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, Self

import networkx as nx
from llama_index.core.graph_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PG_PERSIST_FNAME,
    ChunkNode,
    EntityNode,
    LabelledNode,
    PropertyGraphStore,
    Relation,
    Triplet,
)
from llama_index.core.vector_stores.types import VectorStoreQuery

from hybridmem_plugins.llama_index.files import FileSystem, open_text, write_text
from hybridmem_plugins.llama_index.filters import to_filter
from hybridmem_plugins.llama_index.graph_data import PropertyGraph, names_of
from hybridmem_plugins.llama_index.graph_files import from_json, from_networkx, to_json
from hybridmem_plugins.llama_index.graph_vectors import NodeVectors
from hybridmem_plugins.memory.filters import compile_filter


class NetworkXPropertyGraphStore(PropertyGraphStore):
    """Property graph in a `networkx.MultiDiGraph`: the whole contract, with provenance as sets of chunks.

    - An entity or relation that several chunks state lives until the last of them is deleted, whether by
      `PropertyGraphIndex.delete_ref_doc`, `delete_llama_nodes` or `delete`.
    - An empty list of ids or names means none of them, never all.
    - Entity embeddings are kept here and searched with hnswlib, so `PropertyGraphIndex` writes nothing into a vector
      store that it shares with other indexes.
    - The file that `persist` writes can be read by `SimplePropertyGraphStore` too.

    Nodes and relations are copied on the way in and out. Safe for many threads.

    Args:
        graph: Relations to start with: any networkx graph, a relation being an edge's `label` or `relation`, or its
            key in a multigraph.

    Examples:
        `pip install 'hybridmem-plugins[llama-index]'`

        ```python
        from hybridmem_plugins.llama_index import NetworkXPropertyGraphStore

        index = PropertyGraphIndex(nodes, property_graph_store=NetworkXPropertyGraphStore(), kg_extractors=[...])
        ```
    """

    supports_structured_queries: bool = False
    supports_vector_queries: bool = True

    def __init__(self, graph: nx.Graph | None = None) -> None:
        self._lock = threading.RLock()
        self._data = PropertyGraph()
        self._vectors = NodeVectors()
        if graph is not None:
            entities, relations = from_networkx(graph)
            self.upsert_nodes(entities)
            self.upsert_relations(relations)

    @property
    def graph(self) -> nx.MultiDiGraph:
        """A copy as a plain networkx graph: nodes with `label` and properties, edges with `label` and properties."""
        with self._lock:
            return self._data.plain()

    @property
    def client(self) -> nx.MultiDiGraph:
        """The same as `graph`."""
        return self.graph

    def __len__(self) -> int:
        return len(self._data.graph)

    def __bool__(self) -> bool:
        """Say yes, also while it is empty: LlamaIndex takes a store that is false for none given."""
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy in depth the graph alone, from which the rest is made."""
        with self._lock:
            return type(self)._over, (deepcopy(self._data),)

    # --- reading -------------------------------------------------------------------------------------------------

    def get(self, properties: dict[str, Any] | None = None, ids: list[str] | None = None) -> list[LabelledNode]:
        """Return nodes, in the order in which they came.

        Args:
            properties: Keep nodes that have one of these; None or empty keeps all.
            ids: Keep nodes with these ids; None keeps all.
        """
        with self._lock:
            found: Iterable[str] = self._data.graph if ids is None else self._data.known(ids)
            return [
                self._data.node(identity)
                for identity in found
                if not properties or self._data.node_has_any(identity, properties)
            ]

    def get_triplets(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> list[Triplet]:
        """Return triplets that fulfil everything that is asked; nothing where nothing is asked.

        Args:
            entity_names: Names (or ids) of which the subject or the object is one.
            relation_names: Labels of which the relation's is one.
            properties: Of which the subject, the relation or the object has one.
            ids: Ids of nodes of which the subject or the object is one.
        """
        if entity_names is None and relation_names is None and not properties and ids is None:
            return []
        with self._lock:
            asked = [self._data.known(names_of(names)) for names in (entity_names, ids) if names is not None]
            edges = self._data.edges_of(asked[0]) if asked else self._data.edges()
            for nodes in map(set, asked[1:]):
                edges = [edge for edge in edges if edge[0] in nodes or edge[2] in nodes]
            if relation_names is not None:
                edges = [edge for edge in edges if edge[1] in relation_names]
            if properties:
                edges = [edge for edge in edges if self._data.triplet_has_any(edge, properties)]
            return [self._data.triplet(edge) for edge in edges]

    def get_rel_map(
        self,
        graph_nodes: list[LabelledNode],
        depth: int = 2,
        limit: int = 30,
        ignore_rels: list[str] | None = None,
    ) -> list[Triplet]:
        """Return the triplets around nodes, nearest first, each once, in both directions.

        Args:
            graph_nodes: Where to start.
            depth: How many steps to go.
            limit: How many triplets at most.
            ignore_rels: Labels of relations that are neither returned nor followed.
        """
        with self._lock:
            start = self._data.known([node.id for node in graph_nodes])
            edges = self._data.around(start, depth, limit, set(ignore_rels or ()))
            return [self._data.triplet(edge) for edge in edges]

    def get_schema(self, refresh: bool = False) -> dict[str, Any]:
        """Return the labels of nodes, and the relations between them."""
        with self._lock:
            return self._data.schema()

    def structured_query(self, query: str, param_map: dict[str, Any] | None = None) -> Any:
        """Raise: networkx has no query language.

        Raises:
            NotImplementedError: Always.
        """
        msg = "NetworkXPropertyGraphStore has no query language; use get_triplets, get_rel_map or graph"
        raise NotImplementedError(msg)

    def vector_query(self, query: VectorStoreQuery, **kwargs: Any) -> tuple[list[LabelledNode], list[float]]:
        """Return the entities nearest to a vector and their cosine similarities, best first.

        Chunks are left out, since triplets are what is asked for.

        Args:
            query: Its vector, `similarity_top_k` and `filters` (on properties) are followed.
            **kwargs: Ignored.

        Raises:
            ValueError: The query has no vector, or one of another length.
        """
        if query.query_embedding is None:
            msg = "the query has no embedding"
            raise ValueError(msg)
        filters = to_filter(query.filters)
        predicate = compile_filter({} if filters is None else filters)
        with self._lock:
            allowed = None
            if filters is not None:
                allowed = [i for i in self._data.graph if predicate(self._data.properties(i))]
            found = self._vectors.search(query.query_embedding, query.similarity_top_k, allowed)
            return [self._data.node(identity) for identity, _ in found], [score for _, score in found]

    # --- writing -------------------------------------------------------------------------------------------------

    def upsert_nodes(self, nodes: Sequence[LabelledNode]) -> None:
        """Add nodes; one whose id is there gets the new properties beside its others, and keeps all its sources.

        Raises:
            TypeError: Something is no `EntityNode` or `ChunkNode`.
            ValueError: An embedding has another length than those stored, or NaN.
        """
        for node in nodes:
            if not isinstance(node, EntityNode | ChunkNode):
                msg = f"nodes are EntityNode or ChunkNode, not {type(node).__name__}"
                raise TypeError(msg)
        with self._lock:
            vectors = {n.id: n.embedding for n in nodes if isinstance(n, EntityNode) and n.embedding is not None}
            self._vectors.set(vectors)  # first: it may refuse
            for node in nodes:
                self._data.put_node(node)

    def upsert_relations(self, relations: list[Relation]) -> None:
        """Add relations; endpoints that are missing are made. One that is there keeps all its sources."""
        with self._lock:
            for relation in relations:
                self._data.put_relation(relation)

    def delete(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        """Delete nodes (with their relations) and relations; neighbours stay.

        With a chunk goes what only it stated.

        Args:
            entity_names: Names (or ids) of nodes to delete.
            relation_names: Labels of relations to delete.
            properties: Delete nodes and relations that have one of these.
            ids: Ids of nodes to delete.
        """
        with self._lock:
            nodes = dict.fromkeys([*self._data.known(names_of(entity_names or [])), *self._data.known(ids or [])])
            if properties:
                nodes.update(dict.fromkeys(i for i in self._data.graph if self._data.node_has_any(i, properties)))
            for edge in self._data.edges() if relation_names or properties else ():
                if edge[1] in (relation_names or ()) or (properties and self._data.edge_has_any(edge, properties)):
                    self._data.drop_edge(edge)
            self._drop(nodes)

    def delete_llama_nodes(self, node_ids: list[str] | None = None, ref_doc_ids: list[str] | None = None) -> None:
        """Delete chunks by id or by document, with the entities and relations that only they stated.

        Ids that are unknown delete nothing.
        """
        with self._lock:
            documents = list(ref_doc_ids or [])
            chunks = [*(node_ids or []), *self._data.parts_of(documents), *documents]
            self._drop(self._data.known(chunks), sources=chunks)

    def _drop(self, nodes: Iterable[str], sources: Iterable[str] = ()) -> None:
        gone = self._data.drop_nodes(nodes, sources)
        self._vectors.remove(gone)

    # --- async twins ---------------------------------------------------------------------------------------------

    async def aget(self, properties: dict[str, Any] | None = None, ids: list[str] | None = None) -> list[LabelledNode]:
        """Do as `get`, without blocking the event loop."""
        return await asyncio.to_thread(self.get, properties, ids)

    async def aget_triplets(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> list[Triplet]:
        """Do as `get_triplets`, without blocking the event loop."""
        return await asyncio.to_thread(self.get_triplets, entity_names, relation_names, properties, ids)

    async def aget_rel_map(
        self,
        graph_nodes: list[LabelledNode],
        depth: int = 2,
        limit: int = 30,
        ignore_rels: list[str] | None = None,
    ) -> list[Triplet]:
        """Do as `get_rel_map`, without blocking the event loop."""
        return await asyncio.to_thread(self.get_rel_map, graph_nodes, depth, limit, ignore_rels)

    async def avector_query(self, query: VectorStoreQuery, **kwargs: Any) -> tuple[list[LabelledNode], list[float]]:
        """Do as `vector_query`, without blocking the event loop."""
        return await asyncio.to_thread(self.vector_query, query, **kwargs)

    async def aupsert_nodes(self, nodes: Sequence[LabelledNode]) -> None:
        """Do as `upsert_nodes`, without blocking the event loop."""
        await asyncio.to_thread(self.upsert_nodes, nodes)

    async def aupsert_relations(self, relations: list[Relation]) -> None:
        """Do as `upsert_relations`, without blocking the event loop."""
        await asyncio.to_thread(self.upsert_relations, relations)

    async def adelete(
        self,
        entity_names: list[str] | None = None,
        relation_names: list[str] | None = None,
        properties: dict[str, Any] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        """Do as `delete`, without blocking the event loop."""
        await asyncio.to_thread(self.delete, entity_names, relation_names, properties, ids)

    async def adelete_llama_nodes(
        self, node_ids: list[str] | None = None, ref_doc_ids: list[str] | None = None
    ) -> None:
        """Do as `delete_llama_nodes`, without blocking the event loop."""
        await asyncio.to_thread(self.delete_llama_nodes, node_ids, ref_doc_ids)

    # --- files ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON, in the form of `SimplePropertyGraphStore` with some more."""
        with self._lock:
            return to_json(self._data)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what `to_dict` of this class or of `SimplePropertyGraphStore` gave.

        Raises:
            MemoryFormatError: It is neither.
        """
        return cls._over(from_json(data))

    @classmethod
    def _over(cls, data: PropertyGraph) -> Self:
        made = cls()
        made._data = data
        made._vectors.set(data.embeddings())
        return made

    def persist(self, persist_path: str, fs: FileSystem | None = None) -> None:
        """Write a JSON file, in one step.

        Args:
            persist_path: The file.
            fs: File system; None is the local one.
        """
        write_text(persist_path, json.dumps(self.to_dict(), ensure_ascii=False), fs)

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: FileSystem | None = None) -> Self:
        """Read what `persist` wrote, or what `SimplePropertyGraphStore.persist` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            MemoryFormatError: It is another kind of file.
        """
        with open_text(persist_path, fs) as file:
            return cls.from_dict(json.load(file))

    @classmethod
    def from_persist_dir(cls, persist_dir: str = DEFAULT_PERSIST_DIR, fs: FileSystem | None = None) -> Self:
        """Read what `StorageContext.persist` wrote into a folder."""
        return cls.from_persist_path(f"{str(persist_dir).rstrip('/')}/{DEFAULT_PG_PERSIST_FNAME}", fs)
