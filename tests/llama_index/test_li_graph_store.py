"""NetworkXPropertyGraphStore: the contract, forgetting, files, and PropertyGraphIndex on top."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from li_helpers import WordEmbedding
from llama_index.core import PropertyGraphIndex, StorageContext, VectorStoreIndex
from llama_index.core.graph_stores import SimplePropertyGraphStore
from llama_index.core.graph_stores.types import ChunkNode, EntityNode, LabelledNode, Relation
from llama_index.core.indices.property_graph import ImplicitPathExtractor
from llama_index.core.indices.property_graph.sub_retrievers.vector import VectorContextRetriever
from llama_index.core.llms.mock import MockLLM
from llama_index.core.schema import BaseNode, Document, NodeRelationship, TextNode, TransformComponent
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.llama_index import NetworkXPropertyGraphStore

MODEL = WordEmbedding()


def relation(triplet: str, **properties: Any) -> Relation:
    subject, label, object_ = triplet.split()
    return Relation(label=label, source_id=subject, target_id=object_, properties=properties)


def shown(triplets: Sequence[Any]) -> list[str]:
    return [f"{s.id} {r.label} {o.id}" for s, r, o in triplets]


@pytest.fixture
def store() -> NetworkXPropertyGraphStore:
    made = NetworkXPropertyGraphStore()
    made.upsert_nodes([EntityNode(name=name, label="person", properties={"age": n}) for n, name in enumerate("ABCD")])
    made.upsert_relations([relation(text) for text in ("A knows B", "A likes B", "B knows C", "D knows C")])
    return made


def test_nodes_and_triplets(store: NetworkXPropertyGraphStore) -> None:
    assert [node.id for node in store.get()] == list("ABCD")
    assert [node.id for node in store.get(ids=["C", "A", "unknown"])] == ["C", "A"]
    assert store.get(ids=[]) == []
    assert [node.id for node in store.get(properties={"age": 2})] == ["C"]
    assert shown(store.get_triplets(entity_names=["A"])) == ["A knows B", "A likes B"]  # two relations of one pair
    assert shown(store.get_triplets(relation_names=["knows"])) == ["A knows B", "B knows C", "D knows C"]
    assert shown(store.get_triplets(ids=["C"], relation_names=["knows"])) == ["B knows C", "D knows C"]
    assert shown(store.get_triplets(properties={"age": 3})) == ["D knows C"]
    assert store.get_triplets() == []
    assert store.get_triplets(ids=[]) == store.get_triplets(entity_names=[]) == []
    assert store.get_schema() == {
        "nodes": ["person"], "relations": [["person", "knows", "person"], ["person", "likes", "person"]]
    }  # fmt: skip
    with pytest.raises(NotImplementedError, match="get_triplets"):
        store.structured_query("MATCH (n) RETURN n")


def test_rel_map_goes_both_ways_without_repetition(store: NetworkXPropertyGraphStore) -> None:
    (start,) = store.get(ids=["A"])
    assert shown(store.get_rel_map([start], depth=1)) == ["A knows B", "A likes B"]
    assert shown(store.get_rel_map([start], depth=2)) == ["A knows B", "A likes B", "B knows C"]
    assert shown(store.get_rel_map([start], depth=3))[-1] == "D knows C"
    assert shown(store.get_rel_map([start], depth=3, limit=1)) == ["A knows B"]
    assert store.get_rel_map([start], depth=3, limit=0) == []
    assert shown(store.get_rel_map([start], depth=3, ignore_rels=["knows"])) == ["A likes B"]
    assert store.get_rel_map([], depth=3) == store.get_rel_map([EntityNode(name="unknown")]) == []
    assert store.get_rel_map([start], depth=0) == []


def test_what_callers_do_to_nodes_stays_with_them(store: NetworkXPropertyGraphStore) -> None:
    mine = EntityNode(name="E", properties={"tags": ["x"]})
    store.upsert_nodes([mine])
    mine.properties["tags"].append("y")
    store.get(ids=["E"])[0].properties["tags"].append("z")
    store.get_triplets(ids=["A"])[0][1].properties["x"] = 1
    assert store.get(ids=["E"])[0].properties == {"tags": ["x"]}
    assert store.get_triplets(ids=["A"])[0][1].properties == {}


def test_upsert_merges(store: NetworkXPropertyGraphStore) -> None:
    store.upsert_nodes([EntityNode(name="A", label="scientist", properties={"born": 1815})])
    (node,) = store.get(ids=["A"])
    assert (node.label, node.properties) == ("scientist", {"age": 0, "born": 1815})
    store.upsert_relations([relation("A knows B", since=1830), relation("A knows new")])
    assert store.get_triplets(ids=["A"])[0][1].properties == {"since": 1830}
    assert [node.id for node in store.get()] == [*"ABCD", "new"]
    with pytest.raises(TypeError, match="dict"):
        store.upsert_nodes([{"name": "A"}])


def test_delete_leaves_neighbours_and_nothing_dangling(store: NetworkXPropertyGraphStore) -> None:
    store.delete(ids=["B"])
    assert [node.id for node in store.get()] == ["A", "C", "D"]
    assert shown(store.get_triplets(entity_names=list("ABCD"))) == ["D knows C"]
    store.delete(relation_names=["knows"])
    assert len(store) == 3
    assert store.get_triplets(entity_names=list("ABCD")) == []
    store.delete(properties={"age": 3})
    store.delete(entity_names=["A"])
    assert [node.id for node in store.get()] == ["C"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ids": []},
        {"ids": ["unknown"]},
        {"ids": [""]},
        {"entity_names": []},
        {"properties": {}},
        {"relation_names": []},
    ],
)
def test_deleting_nothing_deletes_nothing(store: NetworkXPropertyGraphStore, settings: dict[str, Any]) -> None:
    before = store.to_dict()
    store.delete(**settings)
    store.delete_llama_nodes(node_ids=settings.get("ids"), ref_doc_ids=settings.get("ids"))
    assert store.to_dict() == before


def two_chunks() -> NetworkXPropertyGraphStore:
    store = NetworkXPropertyGraphStore()
    chunks = [TextNode(id_=f"c{n}", text=f"Chunk {n}.") for n in (1, 2)]
    for chunk in chunks:
        chunk.relationships[NodeRelationship.SOURCE] = Document(
            id_=f"doc{chunk.node_id}", text="x"
        ).as_related_node_info()
    store.upsert_llama_nodes(chunks)
    for chunk, text in (("c1", "Ada knows Bob"), ("c2", "Ada knows Bob"), ("c2", "Bob knows Cat")):
        stated = relation(text, triplet_source_id=chunk)
        ends = [EntityNode(name=n, properties={"triplet_source_id": chunk}) for n in (text.split()[0], text.split()[2])]
        known = {node.id for node in store.get(ids=[end.id for end in ends])}
        store.upsert_nodes([end for end in ends if end.id not in known])  # as PropertyGraphIndex does
        store.upsert_relations([stated])
    return store


def entities(store: NetworkXPropertyGraphStore) -> list[str]:
    return sorted(node.id for node in store.get() if isinstance(node, EntityNode))


async def test_what_two_chunks_state_lives_until_both_are_gone() -> None:
    for delete in (
        lambda store, n: store.delete(ids=[f"c{n}"]),
        lambda store, n: store.delete_llama_nodes(node_ids=[f"c{n}"]),
        lambda store, n: store.delete_llama_nodes(ref_doc_ids=[f"docc{n}"]),
    ):
        store = two_chunks()
        found = store.get(properties={"triplet_source_id": "c2"})
        assert [node.id for node in found] == ["Ada", "Bob", "Cat"]
        delete(store, 1)
        assert entities(store) == ["Ada", "Bob", "Cat"]
        assert sorted(shown(store.get_triplets(entity_names=["Bob"]))) == ["Ada knows Bob", "Bob knows Cat"]
        assert store.get(ids=["Ada"])[0].properties["triplet_source_id"] == "c2"
        delete(store, 2)
        assert store.get() == []
        store = two_chunks()
        delete(store, 2)
        assert entities(store) == ["Ada", "Bob"]
        assert shown(store.get_triplets(entity_names=["Ada"])) == ["Ada knows Bob"]
    store = two_chunks()
    store.upsert_nodes([EntityNode(name="Cat")])  # by a user, so it is not the chunk's alone
    await store.adelete_llama_nodes(["c1", "c2"])
    assert entities(store) == ["Cat"]


def test_forgetting_documents_one_by_one_takes_linear_time() -> None:
    store = NetworkXPropertyGraphStore()
    for n in range(3000):
        store.upsert_nodes([ChunkNode(id_=f"c{n}", text="t", properties={"ref_doc_id": f"d{n}"})])
        store.upsert_relations([relation(f"s{n} knows everyone", triplet_source_id=f"c{n}")])
    started = time.process_time()
    for n in range(3000):
        assert len(store.get_triplets(ids=[f"s{n}"])) == 1
        store.delete_llama_nodes(ref_doc_ids=[f"d{n}"])
    assert time.process_time() - started < 10  # looking through the whole graph each time took a minute
    assert len(store) == 0


async def test_async_twins(store: NetworkXPropertyGraphStore) -> None:
    await store.aupsert_nodes([EntityNode(name="E")])
    await store.aupsert_relations([relation("E knows A")])
    assert await store.aget(ids=["E"]) == store.get(ids=["E"])
    assert await store.aget_triplets(ids=["E"]) == store.get_triplets(ids=["E"])
    assert await store.aget_rel_map(store.get(ids=["E"])) == store.get_rel_map(store.get(ids=["E"]))
    await store.adelete(ids=["E"])
    assert store.get(ids=["E"]) == []


async def test_vector_query(store: NetworkXPropertyGraphStore) -> None:
    random = np.random.default_rng(0)
    vectors = {name: random.normal(size=8).tolist() for name in "ABC"}
    store.upsert_nodes([EntityNode(name=name, embedding=vector) for name, vector in vectors.items()])
    store.upsert_nodes([ChunkNode(text="chunk", id_="c", embedding=vectors["A"])])
    asked = VectorStoreQuery(query_embedding=vectors["A"], similarity_top_k=9)
    found, scores = store.vector_query(asked)
    assert found[0].id == "A"
    assert sorted(node.id for node in found) == ["A", "B", "C"]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0)
    assert await store.avector_query(asked) == (found, scores)
    only = MetadataFilters(filters=[MetadataFilter(key="age", value=2)])
    asked = VectorStoreQuery(query_embedding=vectors["A"], similarity_top_k=9, filters=only)
    assert [node.id for node in store.vector_query(asked)[0]] == ["C"]
    store.upsert_nodes([EntityNode(name="B", embedding=vectors["A"])])
    store.delete(ids=["A"])
    best = store.vector_query(VectorStoreQuery(query_embedding=vectors["A"], similarity_top_k=1))
    assert [node.id for node in best[0]] == ["B"]
    with pytest.raises(ValueError, match="shape"):
        store.upsert_nodes([EntityNode(name="new"), EntityNode(name="bad", embedding=[1.0, 2.0])])
    assert store.get(ids=["new", "bad"]) == []
    assert NetworkXPropertyGraphStore().vector_query(asked) == ([], [])
    with pytest.raises(ValueError, match="no embedding"):
        store.vector_query(VectorStoreQuery(query_str="x"))


def test_files(tmp_path: Path) -> None:
    store = two_chunks()
    store.upsert_nodes([EntityNode(name="Ada", embedding=[1.0, 0.0]), EntityNode(name="a_b"), EntityNode(name="a")])
    # Both share the key "a_b_c_d" in the form of SimplePropertyGraphStore.
    store.upsert_relations([
        Relation(label="c", source_id="a_b", target_id="d"), Relation(label="b_c", source_id="a", target_id="d")
    ])  # fmt: skip
    store.persist(str(tmp_path / "deep" / "graph.json"))
    loaded = NetworkXPropertyGraphStore.from_persist_path(str(tmp_path / "deep" / "graph.json"))
    assert loaded.to_dict() == store.to_dict() == json.loads((tmp_path / "deep" / "graph.json").read_text())
    asked = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=1)
    assert loaded.vector_query(asked)[0][0].id == "Ada"
    loaded.delete(ids=["c2"])
    assert "Cat" not in entities(loaded)
    assert {"Bob", "a"} <= set(entities(loaded))
    simple = SimplePropertyGraphStore.from_persist_path(str(tmp_path / "deep" / "graph.json"))
    assert {node.id for node in simple.get()} == {node.id for node in store.get()}
    assert set(shown(simple.get_triplets(entity_names=["Bob"]))) == {"Ada knows Bob", "Bob knows Cat"}
    simple.persist(str(tmp_path / "simple.json"))
    theirs = NetworkXPropertyGraphStore.from_persist_path(str(tmp_path / "simple.json"))
    assert {node.id for node in theirs.get()} == {node.id for node in store.get()}
    for bad in (
        {},
        [],
        {"nodes": {"x": {}}, "relations": {}, "triplets": []},
        {**store.to_dict(), "hybridmem": {"format": 9}},
    ):
        with pytest.raises(MemoryFormatError):
            NetworkXPropertyGraphStore.from_dict(bad)


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    store = NetworkXPropertyGraphStore()
    context = StorageContext.from_defaults(property_graph_store=store)
    index_over(context.property_graph_store)
    assert "Ada" in entities(store)
    StorageContext.from_defaults(property_graph_store=NetworkXPropertyGraphStore()).persist(str(tmp_path))
    assert len(NetworkXPropertyGraphStore.from_persist_dir(str(tmp_path))) == 0


def test_networkx_in_and_out(store: NetworkXPropertyGraphStore) -> None:
    plain = store.graph
    assert isinstance(plain, nx.MultiDiGraph)
    assert sorted(plain.edges(keys=True))[:2] == [("A", "B", "knows"), ("A", "B", "likes")]
    assert plain.nodes["C"] == {"age": 2, "name": "C", "label": "person"}
    plain.remove_node("A")
    assert len(store) == 4
    around = NetworkXPropertyGraphStore(store.graph).get_triplets(entity_names=["B"])
    assert sorted(shown(around)) == ["A knows B", "A likes B", "B knows C"]
    undirected = nx.Graph()
    undirected.add_edge("x", 1, relation="near", weight=2)
    undirected.add_edge("x", "y")
    other = NetworkXPropertyGraphStore(undirected)
    assert sorted(shown(other.get_triplets(entity_names=["x"]))) == ["x RELATED y", "x near 1"]
    assert other.get_triplets(relation_names=["near"])[0][1].properties == {"weight": 2}


class Knows(TransformComponent):
    """Reads "X knows Y" and links the names."""

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for node in nodes:
            found: list[LabelledNode] = []
            relations = []
            for sentence in node.get_content().split("."):
                words = sentence.split()
                if len(words) == 3:
                    found += [EntityNode(name=words[0]), EntityNode(name=words[2])]
                    relations.append(Relation(label=words[1], source_id=words[0], target_id=words[2]))
            node.metadata["nodes"], node.metadata["relations"] = found, relations
        return nodes


def index_over(store: NetworkXPropertyGraphStore, context: StorageContext | None = None) -> PropertyGraphIndex:
    return PropertyGraphIndex.from_documents(
        [
            Document(id_="one", text="Ada knows Bob. Ada knows Eve."),
            Document(id_="two", text="Ada knows Bob. Bob knows Cat."),
        ],
        kg_extractors=[ImplicitPathExtractor(), Knows()],
        property_graph_store=store,
        storage_context=context,
        llm=MockLLM(),
        embed_model=MODEL,
        use_async=False,
    )


def test_a_property_graph_index_forgets_what_it_is_told_to() -> None:
    store = NetworkXPropertyGraphStore()
    index = index_over(store)
    assert {"Ada", "Bob", "Cat", "Eve"} <= set(entities(store))
    index.delete_ref_doc("one")
    assert "Eve" not in entities(store)
    assert {"Ada", "Bob", "Cat"} <= set(entities(store))
    assert "Ada knows Bob" in shown(store.get_triplets(entity_names=["Ada"]))
    index.delete_ref_doc("two")
    assert not {"Ada", "Bob", "Cat"} & set(entities(store))
    assert store.vector_query(VectorStoreQuery(query_embedding=[1.0] * 32, similarity_top_k=9)) == ([], [])


def test_a_property_graph_index_retrieves_and_leaves_a_shared_vector_store_alone(tmp_path: Path) -> None:
    context = StorageContext.from_defaults()
    VectorStoreIndex([TextNode(text="alone")], storage_context=context, embed_model=MODEL)
    store = NetworkXPropertyGraphStore()
    index_over(store, context)
    assert len(context.vector_store.data.embedding_dict) == 1
    StorageContext.from_defaults(property_graph_store=store).persist(str(tmp_path))
    loaded = NetworkXPropertyGraphStore.from_persist_dir(str(tmp_path))
    for one in (store, loaded):
        index = PropertyGraphIndex.from_existing(one, llm=MockLLM(), embed_model=MODEL)
        near = VectorContextRetriever(one, embed_model=MODEL, similarity_top_k=1, path_depth=1, include_text=False)
        found = index.as_retriever(sub_retrievers=[near]).retrieve("Cat")
        assert {n.text for n in found} == {"Bob -> knows -> Cat"}
