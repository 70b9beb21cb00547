"""The knowledge graph in and out of LangChain."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import networkx as nx
import pytest
from langchain_core.documents import Document

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.langchain import (
    GraphDocumentExtractor,
    HnswVectorStore,
    HybridRetriever,
    as_networkx,
    documents_from_entity_graph,
    to_networkx_entity_graph,
    triples,
)


def test_networkx_is_a_copy(retriever: HybridRetriever) -> None:
    graph = as_networkx(retriever)
    assert graph.has_edge("passage:d0", "analytical engine", "mentions")
    assert graph.has_edge("passage:d1", "analytical engine", "defines")
    graph.clear()
    assert as_networkx(retriever.memory).number_of_nodes() > 6
    assert nx.utils.graphs_equal(as_networkx(HnswVectorStore(memory=retriever.memory)), as_networkx(retriever))
    with pytest.raises(TypeError, match="HybridMemory"):
        as_networkx("memory")


def test_triples_respect_a_filter(retriever: HybridRetriever) -> None:
    everything = triples(retriever)
    assert ("Ada Lovelace", "wrote the first program, for the", "Analytical Engine") in everything
    assert everything == triples(retriever.memory)
    assert {subject for subject, _, _ in triples(retriever, {"tenant": "b"})} <= {
        "Analytical Engine",
        "Banana",
        "Helium",
    }
    json.dumps(everything)


def test_triples_under_a_filter_know_no_title_of_an_excluded_passage() -> None:
    mine = Passage("We talked about the secret project all day.", "Meeting", "a", {"tenant": "a"})
    other = Passage("It is hidden.", "Secret project", "b", {"tenant": "b"})
    with HybridMemory() as alone, HybridMemory() as together:
        alone.add([mine])
        together.add([mine, other])
        assert ("Meeting", "We talked about the", "secret project") in triples(together)
        assert triples(together, {"tenant": "a"}) == triples(alone)


def test_triples_come_in_the_same_order_whatever_was_added_first() -> None:
    passages = [Passage("It has a red bridge and a blue bridge.", "Town", "c"), Passage("x", "Blue bridge", "b")]
    passages.append(Passage("x", "Red bridge", "a"))
    with HybridMemory() as one, HybridMemory() as other:
        for passage in passages:
            one.add([passage])
        other.add(passages[::-1])
        assert triples(one) == triples(other) != []


def test_langchain_communitys_entity_graph_in_and_out(retriever: HybridRetriever) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("langchain_community.graphs.networkx_graph")
    graph = to_networkx_entity_graph(retriever)
    knowledge = graph.get_entity_knowledge("Ada Lovelace")
    assert "Ada Lovelace wrote the first program, for the Analytical Engine" in knowledge
    back = HybridRetriever.from_documents(documents_from_entity_graph(graph), k=2)
    found = back.invoke("Who designed the machine that Ada Lovelace wrote for?")
    assert {doc.metadata["title"] for doc in found} == {"Ada Lovelace", "Analytical Engine"}
    assert {doc.id for doc in found} == {"entity:Ada Lovelace", "entity:Analytical Engine"}


def test_any_networkx_graph_becomes_documents() -> None:
    graph = nx.MultiDiGraph()
    graph.add_edge("Ada", "Bob", "knows")
    graph.add_edge("Ada", "Bob", "likes")
    graph.add_edge("Bob", 3, relation="has")
    first, second = documents_from_entity_graph(graph)
    assert first.page_content == "Ada knows Bob.\nAda likes Bob."
    assert second.page_content == "Bob has 3."
    assert first.metadata == {"title": "Ada"}
    undirected = nx.Graph([("x", "y")])
    assert documents_from_entity_graph(undirected)[0].page_content == "x is related to y."
    assert documents_from_entity_graph(nx.DiGraph()) == []
    with pytest.raises(TypeError, match="networkx"):
        documents_from_entity_graph([("a", "b")])


def graph_document(text: str, nodes: list[Any], relations: list[tuple[Any, Any, Any]]) -> Any:
    return SimpleNamespace(
        source=Document(id="d", page_content=text),
        nodes=[SimpleNamespace(id=node, type="Person", properties={}) for node in nodes],
        relationships=[
            SimpleNamespace(source=SimpleNamespace(id=s), target=SimpleNamespace(id=o), type=kind, properties={})
            for s, kind, o in relations
        ],
    )


def test_graph_documents_bring_typed_relations() -> None:
    text = "it was said that ada worked with charles. they were friends."
    given = graph_document(text, ["ada", "charles"], [("ada", "WORKED_WITH", "charles"), ("ada", "KNEW", "byron")])
    extractor = GraphDocumentExtractor([given])
    retriever = HybridRetriever.from_documents([given.source], memory_options={"extractor": extractor})
    graph = as_networkx(retriever)
    assert graph.has_edge("ada", "charles", "WORKED_WITH")
    assert graph.has_edge("passage:d", "ada", "mentions")
    assert ("ada", "KNEW", "byron") in triples(retriever)
    assert extractor.skipped == 0
    retriever.delete(["d"])
    assert as_networkx(retriever).number_of_nodes() == 0


def test_malformed_graph_documents_are_skipped_and_counted() -> None:
    relations = [("ada", "KNEW", None), ("", "KNEW", "byron"), ("ada", None, "byron"), ("ada", " ", "byron")]
    given = graph_document("ada knew byron", ["ada", None, "!!"], [*relations, ("ada", "KNEW", "byron")])
    extractor = GraphDocumentExtractor([given])
    assert extractor.skipped == 6
    retriever = HybridRetriever.from_documents([given.source], memory_options={"extractor": extractor})
    assert [t for t in triples(retriever) if t[1] == "KNEW"] == [("ada", "KNEW", "byron")]
    with pytest.raises(TypeError, match="source"):
        GraphDocumentExtractor([Document(page_content="x")])


def test_real_graph_documents() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("langchain_community.graphs.graph_document")
    ada, byron = module.Node(id="Ada Lovelace"), module.Node(id="Lord Byron")
    given = module.GraphDocument(
        nodes=[ada, byron],
        relationships=[module.Relationship(source=ada, target=byron, type="DAUGHTER_OF")],
        source=Document(id="d", page_content="Ada Lovelace was the daughter of Lord Byron."),
    )
    extractor = GraphDocumentExtractor([given])
    retriever = HybridRetriever.from_documents([given.source], memory_options={"extractor": extractor})
    assert ("ada lovelace", "DAUGHTER_OF", "lord byron") in triples(retriever)
