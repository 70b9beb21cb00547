"""Labelled nodes and relations in a networkx graph, with the chunks that state each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import networkx as nx
from llama_index.core.graph_stores.types import (
    TRIPLET_SOURCE_KEY,
    ChunkNode,
    EntityNode,
    LabelledNode,
    Relation,
    Triplet,
)

Edge = tuple[str, str, str]
"""Subject's id, relation's label, object's id."""

# Stands among the sources for a user who put something in without naming a chunk; it is never withdrawn.
USER = ""


class PropertyGraph:
    """The graph beneath `NetworkXPropertyGraphStore`.

    Nodes of the networkx graph hold a `node`, edges (keyed by label) a `relation`; both hold `sources`, the ids of
    the chunks that state them. What states a relation states its ends.
    """

    def __init__(self) -> None:
        self.graph: Any = nx.MultiDiGraph()
        # By chunk, what it states, and by document, its nodes: so that forgetting one looks at nothing else.
        self._stated: dict[str, dict[str | Edge, None]] = {}
        self._parts: dict[str, dict[str, None]] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    def known(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that are in the graph, each once."""
        return [identity for identity in dict.fromkeys(ids) if identity in self.graph]

    def node(self, identity: str) -> LabelledNode:
        """Return a copy of a node."""
        node: LabelledNode = self.graph.nodes[identity]["node"].model_copy(deep=True)
        return node

    def properties(self, identity: str) -> dict[str, Any]:
        """Return the properties of a node."""
        properties: dict[str, Any] = self.graph.nodes[identity]["node"].properties
        return properties

    def edges(self) -> list[Edge]:
        """Return all edges, in the order of their subjects."""
        return [(subject, label, object_) for subject, object_, label in self.graph.edges(keys=True)]

    def edges_of(self, identities: Iterable[str]) -> list[Edge]:
        """Return the edges that nodes have in either direction, each once."""
        return list(dict.fromkeys(edge for identity in identities for edge in self._incident(identity)))

    def parts_of(self, documents: Iterable[str]) -> list[str]:
        """Return the ids of the nodes whose property `ref_doc_id` names one of these documents."""
        return [identity for document in documents for identity in self._parts.get(document, ())]

    def triplet(self, edge: Edge) -> Triplet:
        """Return copies of a relation and its ends."""
        subject, label, object_ = edge
        relation: Relation = self.graph.edges[subject, object_, label]["relation"].model_copy(deep=True)
        return (self.node(subject), relation, self.node(object_))

    def node_has_any(self, identity: str, properties: Mapping[str, Any]) -> bool:
        """Say whether a node has one of these properties; it has every chunk that states it as its source."""
        data = self.graph.nodes[identity]
        return _has_any(data["node"].properties, data["sources"], properties)

    def edge_has_any(self, edge: Edge, properties: Mapping[str, Any]) -> bool:
        """Say whether a relation has one of these properties."""
        data = self.graph.edges[edge[0], edge[2], edge[1]]
        return _has_any(data["relation"].properties, data["sources"], properties)

    def triplet_has_any(self, edge: Edge, properties: Mapping[str, Any]) -> bool:
        """Say whether a relation or one of its ends has one of these properties."""
        return (
            self.edge_has_any(edge, properties)
            or self.node_has_any(edge[0], properties)
            or self.node_has_any(edge[2], properties)
        )

    def around(self, start: Sequence[str], depth: int, limit: int, ignored: set[str]) -> list[Edge]:
        """Return the edges within so many steps of nodes, breadth first, each once."""
        found: dict[Edge, None] = {}
        seen, reached = set(start), list(start)
        for _ in range(depth):
            beyond: dict[str, None] = {}
            for identity in reached:
                for subject, label, object_ in self._incident(identity):
                    if label in ignored:
                        continue
                    found[subject, label, object_] = None
                    if len(found) >= limit:
                        return list(found)[: max(limit, 0)]
                    beyond[object_ if subject == identity else subject] = None
            reached = [identity for identity in beyond if identity not in seen]
            seen.update(reached)
        return list(found)

    def schema(self) -> dict[str, Any]:
        """Return the labels of nodes, and the relations between them."""
        labels = {identity: data["node"].label for identity, data in self.graph.nodes(data=True)}
        kinds = {(labels[subject], label, labels[object_]) for subject, label, object_ in self.edges()}
        return {"nodes": sorted(set(labels.values())), "relations": [list(kind) for kind in sorted(kinds)]}

    def plain(self) -> nx.MultiDiGraph:
        """Return a copy with plain attributes."""
        plain: nx.MultiDiGraph = nx.MultiDiGraph()
        for identity, data in self.graph.nodes(data=True):
            node = data["node"]
            text = {"text": node.text} if isinstance(node, ChunkNode) else {"name": node.name}
            plain.add_node(identity, **{**node.properties, **text, "label": node.label})
        for subject, object_, label, data in self.graph.edges(keys=True, data=True):
            plain.add_edge(subject, object_, label, **{**data["relation"].properties, "label": label})
        return plain

    def embeddings(self) -> dict[str, list[float]]:
        """Return the embeddings of entities that have one."""
        nodes = {identity: data["node"] for identity, data in self.graph.nodes(data=True)}
        return {i: n.embedding for i, n in nodes.items() if isinstance(n, EntityNode) and n.embedding is not None}

    # --- writing -------------------------------------------------------------------------------------------------

    def put_node(self, node: LabelledNode, sources: Iterable[str] = ()) -> None:
        """Add a copy of a node, or the properties, embedding and sources of one that is there."""
        put = node.model_copy(deep=True)
        stated = {*sources, *_source(put.properties)} or {USER}
        if put.id in self.graph:
            old = self.graph.nodes[put.id]
            if type(old["node"]) is type(put):
                put.properties = {**old["node"].properties, **put.properties}
                put.embedding = old["node"].embedding if put.embedding is None else put.embedding
            stated |= old["sources"]
            _discard(self._parts, _document(old["node"]), put.id)
        self.graph.add_node(put.id, node=put, sources=stated)
        self._index(put.id, stated)
        if document := _document(put):
            self._parts.setdefault(document, {})[put.id] = None

    def put_relation(self, relation: Relation, sources: Iterable[str] = ()) -> None:
        """Add a copy of a relation, or the properties and sources of one that is there."""
        put = relation.model_copy(deep=True)
        stated = {*sources, *_source(put.properties)} or {USER}
        for end in (put.source_id, put.target_id):
            if end not in self.graph:
                self.graph.add_node(end, node=EntityNode(name=end), sources=set())
            # An index passes an entity that it knows already no more, so that only its new relations name the chunk.
            self.graph.nodes[end]["sources"] |= stated
            self._index(end, stated)
        if self.graph.has_edge(put.source_id, put.target_id, put.label):
            old = self.graph.edges[put.source_id, put.target_id, put.label]
            put.properties = {**old["relation"].properties, **put.properties}
            stated |= old["sources"]
        self.graph.add_edge(put.source_id, put.target_id, put.label, relation=put, sources=stated)
        self._index((put.source_id, put.label, put.target_id), stated)

    def drop_edge(self, edge: Edge) -> None:
        """Remove a relation; its ends stay."""
        for source in self.graph.edges[edge[0], edge[2], edge[1]]["sources"]:
            _discard(self._stated, source, edge)
        self.graph.remove_edge(edge[0], edge[2], edge[1])

    def drop_nodes(self, nodes: Iterable[str], sources: Iterable[str] = ()) -> list[str]:
        """Remove nodes with their relations, and what only the chunks among them, or these sources, stated.

        Returns:
            The ids of all nodes removed.
        """
        gone = list(nodes)
        chunks = {*sources, *(i for i in gone if isinstance(self.graph.nodes[i]["node"], ChunkNode))} - {USER}
        for identity in gone:
            self._drop_node(identity)
        left = dict.fromkeys(what for chunk in sorted(chunks) for what in self._stated.pop(chunk, ()))
        for what in left:
            if not isinstance(what, str):
                data = self.graph.edges[what[0], what[2], what[1]]
                if _withdraw(data["sources"], data["relation"].properties, chunks):
                    self.drop_edge(what)
        for what in left:
            if isinstance(what, str):
                data = self.graph.nodes[what]
                orphan = _withdraw(data["sources"], data["node"].properties, chunks)
                if orphan and not isinstance(data["node"], ChunkNode):
                    self._drop_node(what)
                    gone.append(what)
        return gone

    def _drop_node(self, identity: str) -> None:
        for edge in self._incident(identity):
            self.drop_edge(edge)
        data = self.graph.nodes[identity]
        for source in data["sources"]:
            _discard(self._stated, source, identity)
        _discard(self._parts, _document(data["node"]), identity)
        self.graph.remove_node(identity)

    def _index(self, what: str | Edge, sources: Iterable[str]) -> None:
        for source in sources:
            if source != USER:
                self._stated.setdefault(source, {})[what] = None

    def _incident(self, identity: str) -> list[Edge]:
        outgoing = [(s, label, o) for s, o, label in self.graph.out_edges(identity, keys=True)]
        return outgoing + [(s, label, o) for s, o, label in self.graph.in_edges(identity, keys=True) if s != identity]


def names_of(names: Iterable[str]) -> list[str]:
    """Return names as ids, in which LlamaIndex allows no double quotes."""
    return [form for name in names for form in (name, name.replace('"', " "))]


def _source(properties: Mapping[str, Any]) -> list[str]:
    source = properties.get(TRIPLET_SOURCE_KEY)
    return [] if source is None else [str(source)]


def _document(node: LabelledNode) -> str | None:
    """Return the document that a node is a part of, as `PropertyGraphIndex` says of chunks."""
    document = node.properties.get("ref_doc_id")
    return document if isinstance(document, str) else None


def _discard(index: dict[str, dict[Any, None]], key: str | None, value: Any) -> None:
    """Remove a value from under a key, and the key with the last; what is not there is ignored."""
    if key in index:
        index[key].pop(value, None)
        if not index[key]:
            del index[key]


def _has_any(own: Mapping[str, Any], sources: set[str], asked: Mapping[str, Any]) -> bool:
    return any(
        (key in own and own[key] == value) or (key == TRIPLET_SOURCE_KEY and value in sources)
        for key, value in asked.items()
    )


def _withdraw(sources: set[str], properties: dict[str, Any], chunks: set[str]) -> bool:
    """Remove sources; say whether there were some and none is left."""
    if not sources & chunks:
        return False
    sources -= chunks
    if properties.get(TRIPLET_SOURCE_KEY) in chunks:
        del properties[TRIPLET_SOURCE_KEY]
        if sources - {USER}:
            properties[TRIPLET_SOURCE_KEY] = min(sources - {USER})
    return not sources
