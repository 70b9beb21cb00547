"""Any LlamaIndex property graph store as a memory's graph database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

from llama_index.core.graph_stores.simple_labelled import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import EntityNode, PropertyGraphStore, Relation

from hybridmem_plugins.engines.cypher import CypherGraph, Dialect
from hybridmem_plugins.engines.graphs import GraphEngine, Mentioned, PassageNode

_DIALECTS: dict[str, Dialect] = {
    "Neo4jPropertyGraphStore": "neo4j",
    "FalkorDBPropertyGraphStore": "falkordb",
    "MemgraphPropertyGraphStore": "memgraph",
    "NeptuneDatabasePropertyGraphStore": "opencypher",
    "NeptuneAnalyticsPropertyGraphStore": "opencypher",
    "LadybugPropertyGraphStore": "kuzu",
    "KuzuPropertyGraphStore": "kuzu",
}
_LATE = 1_000_000


def as_graph_engine(
    graph_store: PropertyGraphStore, name: str | None = None, dialect: Dialect | None = None
) -> GraphEngine:
    """Return what `HybridMemory(path="folder", graph=...)` takes.

    A store that speaks Cypher is asked in Cypher, one round trip for a hop; any other by `get_triplets`, two for a hop.
    Several memories may share a store; the memory's nodes have labels of their own.

    Args:
        graph_store: Its `sanitize_query_output` is turned off, since it cuts answers of more than 128 lines.
        name: Tells it from others; None takes its class and database. A memory that meets another name gives that
            store its whole graph.
        dialect: How its Cypher differs; None knows Neo4j, FalkorDB, Memgraph, Neptune, Ladybug and Kuzu, and asks other
            stores without Cypher.

    Raises:
        TypeError: LlamaIndex's `SimplePropertyGraphStore`, which deletes the neighbours of what is deleted.
    """
    if isinstance(graph_store, SimplePropertyGraphStore):
        msg = "SimplePropertyGraphStore deletes the neighbours of what is deleted: use NetworkXPropertyGraphStore"
        raise TypeError(msg)
    kind = type(graph_store).__name__
    place = getattr(graph_store, "_database", None) or getattr(getattr(graph_store, "db", None), "database_path", "")
    named = name or f"{kind}:{place}"
    speaks = dialect or _DIALECTS.get(kind)
    if speaks is None:
        return TripletGraph(graph_store, named)
    if hasattr(graph_store, "sanitize_query_output"):
        graph_store.sanitize_query_output = False
    # Kuzu and Ladybug have one connection, which is not for several threads at once.
    lock = threading.Lock()

    def query(statement: str, parameters: dict[str, Any]) -> Any:
        if speaks != "kuzu":
            return graph_store.structured_query(statement, param_map=parameters)
        with lock:
            return graph_store.structured_query(statement, param_map=parameters)

    return CypherGraph(query, speaks, named)


class TripletGraph:
    """A `GraphEngine` over the methods that every `PropertyGraphStore` has.

    Args:
        graph_store: Returns triplets of a node in both directions, with the properties of nodes and relations.
        name: Tells it from others.
    """

    def __init__(self, graph_store: PropertyGraphStore, name: str) -> None:
        self.name = name
        self._store = graph_store

    def prepare(self) -> None:
        """Ask something, to see whether the store is there; see `GraphEngine`."""
        self._store.get(ids=["hybridmem"])

    def clear(self, memory: str) -> None:
        """Forget a memory; see `GraphEngine`."""
        self._delete([node.id for node in self._store.get(properties={"hybridmem": memory[:16]})])

    def count(self, memory: str) -> int:
        """Return the number of passages; see `GraphEngine`."""
        return sum(node.label == "HybridPassage" for node in self._store.get(properties={"hybridmem": memory[:16]}))

    def store(self, memory: str, passages: Sequence[PassageNode]) -> None:
        """Store passages; see `GraphEngine`."""
        nodes: dict[str, EntityNode] = {}
        relations: list[Relation] = []

        def node(what: object, label: str, **properties: Any) -> str:
            identity = _id(memory, what)
            nodes[identity] = EntityNode(
                name=identity, label=label, properties={"hybridmem": memory[:16], **properties}
            )
            return identity

        for p in passages:
            passage = node(p.row, "HybridPassage", row=p.row, key=p.id, title=p.title or "")
            for position, name in enumerate(p.defines):
                at = node(f"n {name}", "HybridName", name_key=name)
                relations.append(_relation(passage, "HYBRID_DEFINES", at, position=position))
            for position, (name, kind) in enumerate(p.mentions):
                at = node(f"n {name}", "HybridName", name_key=name)
                relations.append(_relation(passage, "HYBRID_MENTIONS", at, kind=kind, position=position))
            for number, fact in enumerate(p.facts):
                said = {"subject": fact.subject, "relation": fact.relation, "object": fact.object, "row": p.row}
                stated = node(f"{p.row} {number}", "HybridFact", **said)
                relations.append(_relation(passage, "HYBRID_STATES", stated))
                relations += [
                    _relation(stated, "HYBRID_ABOUT", _id(memory, f"n {end}"))
                    for end in dict.fromkeys((fact.subject, fact.object))
                ]
        self._store.upsert_nodes(list(nodes.values()))
        self._store.upsert_relations(relations)

    def link(self, memory: str, pairs: Sequence[tuple[int, str]]) -> None:
        """Let passages mention names as titles; see `GraphEngine`."""
        known = {
            (triplet[0].id, triplet[2].id)
            for triplet in self._triplets(memory, sorted({row for row, _ in pairs}))
            if triplet[1].label in ("HYBRID_DEFINES", "HYBRID_MENTIONS")
        }
        ends = [(_id(memory, row), _id(memory, f"n {name}"), name) for row, name in pairs]
        new = [(passage, at, name) for passage, at, name in ends if (passage, at) not in known]
        if new:
            names = {at: name for _, at, name in new}
            self._store.upsert_nodes(
                [
                    EntityNode(name=at, label="HybridName", properties={"hybridmem": memory[:16], "name_key": name})
                    for at, name in names.items()
                ]
            )
            self._store.upsert_relations(
                [_relation(passage, "HYBRID_MENTIONS", at, kind="title", position=_LATE) for passage, at, _ in new]
            )

    def forget(self, memory: str, rows: Sequence[int]) -> list[str]:
        """Delete passages and their facts; see `GraphEngine`."""
        triplets = self._triplets(memory, rows)
        facts = {triplet[2].id for triplet in triplets if triplet[1].label == "HYBRID_STATES"}
        named = [triplet[2] for triplet in triplets if triplet[1].label in ("HYBRID_DEFINES", "HYBRID_MENTIONS")]
        self._delete([*facts, *{triplet[0].id for triplet in triplets}, *(_id(memory, row) for row in rows)])
        return list(dict.fromkeys(str(node.properties["name_key"]) for node in named))

    def prune(self, memory: str, names: Sequence[str], untitled: Sequence[str]) -> None:
        """Delete names that no passage has; see `GraphEngine`.

        A relation cannot be deleted alone; who mentions what is no title any more is left out when read.
        """
        used = {
            triplet[2].id
            for triplet in self._triplets(memory, [f"n {name}" for name in untitled])
            if triplet[1].label == "HYBRID_DEFINES" or triplet[1].properties.get("kind") != "title"
        }
        self._delete([at for name in untitled if (at := _id(memory, f"n {name}")) not in used])

    def mentioning(
        self, memory: str, names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> list[Mentioned]:
        """Return who mentions some names, all of them; see `GraphEngine`."""
        return self._mentions(memory, [f"n {name}" for name in names])

    def around(
        self, memory: str, rows: Sequence[int], names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> tuple[list[Mentioned], list[Mentioned]]:
        """Return what passages say, and who says the same, in two round trips; see `GraphEngine`."""
        said = self.said_by(memory, rows)
        asked = dict.fromkeys([*(mentioned.name for mentioned in said), *names])
        return said, self.mentioning(memory, list(asked), limit, only) if asked else []

    def said_by(self, memory: str, rows: Sequence[int]) -> list[Mentioned]:
        """Return what passages say; see `GraphEngine`."""
        return self._mentions(memory, rows)

    def facts(self, memory: str, names: Sequence[str] | None) -> list[tuple[str, str, str, int]]:
        """Return the facts about names; see `GraphEngine`."""
        if names is None:
            found: list[Any] = list(self._store.get(properties={"hybridmem": memory[:16]}))
        else:
            found = [triplet[0] for triplet in self._triplets(memory, [f"n {name}" for name in names])]
        facts = [node.properties for node in found if node.label == "HybridFact"]
        return list(dict.fromkeys((f["subject"], f["relation"], f["object"], int(f["row"])) for f in facts))

    def _mentions(self, memory: str, whats: Sequence[object]) -> list[Mentioned]:
        triplets = [t for t in self._triplets(memory, whats) if t[1].label == "HYBRID_MENTIONS"]
        # Some stores leave out properties that are 0.
        lines = [(int(t[0].properties["row"]), int(t[1].properties.get("position", 0)), t) for t in triplets]
        return [
            Mentioned(str(t[2].properties["name_key"]), row, str(t[1].properties["kind"]))
            for row, _, t in sorted(lines, key=lambda line: line[:2])
        ]

    def _triplets(self, memory: str, whats: Sequence[object]) -> list[tuple[Any, Relation, Any]]:
        found = self._store.get_triplets(ids=[_id(memory, what) for what in whats]) if whats else []
        return [cast("tuple[Any, Relation, Any]", tuple(triplet)) for triplet in found]

    def _delete(self, ids: Sequence[str]) -> None:
        if ids:
            self._store.delete(ids=list(dict.fromkeys(ids)))


def _id(memory: str, what: object) -> str:
    return f"{memory[:16]} {what}".replace('"', "\u201d")  # LlamaIndex puts a space for it


def _relation(source: str, label: str, target: str, **properties: Any) -> Relation:
    return Relation(label=label, source_id=source, target_id=target, properties=properties)
