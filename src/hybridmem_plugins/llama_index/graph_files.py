"""Property graphs as JSON that `SimplePropertyGraphStore` reads too, and from other networkx graphs."""

from __future__ import annotations

from typing import Any

import networkx as nx
from llama_index.core.graph_stores.types import ChunkNode, EntityNode, LabelledNode, Relation

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.llama_index.graph_data import PropertyGraph

FORMAT = 1


def to_json(data: PropertyGraph) -> dict[str, Any]:
    """Return a graph as plain JSON.

    `nodes`, `relations` and `triplets` are what `SimplePropertyGraphStore` writes; `hybridmem` holds the sources, and
    the relations that share a key there (the key joins subject, label and object by underscores).
    """
    nodes = {identity: entry["node"].model_dump(mode="json") for identity, entry in data.graph.nodes(data=True)}
    relations: dict[str, Any] = {}
    homonyms: list[Any] = []
    sources: list[Any] = []
    for subject, label, object_ in data.edges():
        entry = data.graph.edges[subject, object_, label]
        dumped = entry["relation"].model_dump(mode="json")
        key = f"{subject}_{label}_{object_}"
        if key in relations:
            homonyms.append(dumped)
        else:
            relations[key] = dumped
        if entry["sources"]:
            sources.append([subject, label, object_, sorted(entry["sources"])])
    own = {
        "format": FORMAT,
        "relations": homonyms,
        "relation_sources": sources,
        "node_sources": {i: sorted(e["sources"]) for i, e in data.graph.nodes(data=True) if e["sources"]},
    }
    return {"nodes": nodes, "relations": relations, "triplets": [list(edge) for edge in data.edges()], "hybridmem": own}


def from_json(stored: Any) -> PropertyGraph:
    """Read what `to_json` or `SimplePropertyGraphStore` wrote.

    Raises:
        MemoryFormatError: It is neither.
    """
    own = stored.get("hybridmem", {}) if isinstance(stored, dict) else {}
    if not isinstance(stored, dict) or not {"nodes", "relations", "triplets"} <= set(stored):
        msg = "this is no property graph: it has no nodes, relations and triplets"
        raise MemoryFormatError(msg)
    if own and own.get("format") != FORMAT:
        msg = f"this property graph has format {own.get('format')!r}, and this version reads format {FORMAT}"
        raise MemoryFormatError(msg)
    data = PropertyGraph()
    node_sources = own.get("node_sources", {})
    for identity, dumped in stored["nodes"].items():
        data.put_node(_node(dumped), node_sources.get(identity, ()))
    relation_sources = {tuple(edge): found for *edge, found in own.get("relation_sources", [])}
    for dumped in [*stored["relations"].values(), *own.get("relations", [])]:
        relation = Relation.model_validate(dumped)
        edge = (relation.source_id, relation.label, relation.target_id)
        data.put_relation(relation, relation_sources.get(edge, ()))
    return data


def from_networkx(graph: nx.Graph) -> tuple[list[EntityNode], list[Relation]]:
    """Return the nodes and edges of any networkx graph as entities and relations.

    A relation is named by the edge's `label` or `relation`, else by its key in a multigraph; `RELATED` where there is
    neither. An edge of an undirected graph becomes one relation.
    """
    entities = []
    for node, attributes in graph.nodes(data=True):
        properties = {str(key): value for key, value in attributes.items() if key != "label"}
        label = attributes.get("label", "entity")
        entities.append(EntityNode(name=str(node), label=str(label), properties=properties))
    relations = []
    keyed = (
        graph.edges(keys=True, data=True)
        if graph.is_multigraph()
        else ((*e, None, d) for *e, d in graph.edges(data=True))
    )
    for subject, object_, key, attributes in keyed:
        named = attributes.get("label", attributes.get("relation", key if isinstance(key, str) else None))
        properties = {str(name): value for name, value in attributes.items() if name not in ("label", "relation")}
        relations.append(
            Relation(
                label="RELATED" if named is None else str(named),
                source_id=str(subject).replace('"', " "),
                target_id=str(object_).replace('"', " "),
                properties=properties,
            )
        )
    return entities, relations


def _node(dumped: Any) -> LabelledNode:
    if isinstance(dumped, dict) and "name" in dumped:
        return EntityNode.model_validate(dumped)
    if isinstance(dumped, dict) and "text" in dumped:
        return ChunkNode.model_validate(dumped)
    msg = f"a node of this property graph is neither an entity nor a chunk: {dumped!r}"
    raise MemoryFormatError(msg)
