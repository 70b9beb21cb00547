"""HybridRetriever in LlamaIndex: results, filters, writing, bad input."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from li_helpers import TEXTS, AsyncWordEmbedding, WordEmbedding, nodes
from llama_index.core.schema import Document, IndexNode, MetadataMode, QueryBundle, TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.errors import EmbedderMismatchError, MemoryFormatError
from hybridmem_plugins.llama_index import HybridRetriever
from ticking import Ticking

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"


def test_finds_both_hops_with_scores_and_reasons(retriever: HybridRetriever) -> None:
    retriever.similarity_top_k = 2
    found = retriever.retrieve(QUESTION)
    assert {n.node_id for n in found} == {"n0", "n1"}
    assert all(isinstance(n.score, float) and 0 <= n.score <= 1 for n in found)
    assert found[0].score >= found[1].score
    assert found[0].node.metadata["hybridmem"]["routes"]
    json.dumps([n.to_dict() for n in found])


def test_nodes_come_back_as_they_were_stored(retriever: HybridRetriever) -> None:
    originals = {node.node_id: node for node in nodes()}
    found = retriever.retrieve(QUESTION)
    assert len(found) == 6
    for one in found:
        node, original = one.node, originals[one.node_id]
        assert node.hash == original.hash  # so that fusion knows it for the same node
        assert node.ref_doc_id == original.ref_doc_id
        assert node.relationships == original.relationships
        assert {key: value for key, value in node.metadata.items() if key != "hybridmem"} == original.metadata
        assert node.get_content(MetadataMode.LLM) == original.get_content(MetadataMode.LLM)
        assert node.get_content(MetadataMode.EMBED) == original.get_content(MetadataMode.EMBED)
        assert (node.start_char_idx, node.end_char_idx) == (original.start_char_idx, original.end_char_idx)


def test_what_callers_do_to_results_stays_with_them(retriever: HybridRetriever) -> None:
    given = nodes()
    fresh = HybridRetriever.from_nodes(given)
    assert given == nodes()
    for one in fresh.retrieve(QUESTION):
        one.node.metadata["number"], one.score = "changed", 0.0
    assert all(n.node.metadata["number"] != "changed" and n.score > 0 for n in fresh.retrieve(QUESTION))


async def test_async_gives_the_same(retriever: HybridRetriever) -> None:
    assert await retriever.aretrieve(QUESTION) == retriever.retrieve(QUESTION)


async def test_fifty_at_once_equal_one_by_one_and_the_loop_keeps_ticking() -> None:
    ticking = Ticking()

    class Waiting(WordEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            ticking.wait_for_a_turn()
            return super()._get_query_embedding(query)

    questions = [f"What do you know about {title}? {n}" for n in range(9) for title in TEXTS][:50]
    plain = HybridRetriever.from_nodes(nodes(), WordEmbedding())
    one_by_one = [plain.retrieve(question) for question in questions]
    waiting = HybridRetriever.from_nodes(nodes(), Waiting(), memory_options={"router": ticking.router})
    async with ticking:
        assert await asyncio.gather(*(waiting.aretrieve(question) for question in questions)) == one_by_one
    assert ticking.waits >= 100  # while embedding and while searching, for each question


async def test_native_async_models_are_awaited_many_at_a_time() -> None:
    model = AsyncWordEmbedding()
    retriever = HybridRetriever.from_nodes([], model, similarity_top_k=1)
    await retriever.ainsert_nodes(nodes())
    assert model.awaited >= 6
    model.awaited = 0
    found = await asyncio.gather(*(retriever.aretrieve(f"yellow fruit {n}") for n in range(40)))
    assert model.most_waiting > 10  # one by one: 1
    assert model.awaited == 40
    assert [n[0].node_id for n in found] == ["n3"] * 40


async def test_models_that_only_pretend_to_be_async_do_not_block_the_loop() -> None:
    import time

    class Slow(WordEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            time.sleep(0.3)
            return super()._get_query_embedding(query)

    retriever = HybridRetriever.from_nodes(nodes(), Slow())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await retriever.aretrieve("yellow fruit")
    ticking.cancel()
    assert ticks > 10


async def test_a_question_vector_that_is_there_is_used() -> None:
    class Counting(WordEmbedding):
        asked: int = 0

        def _get_query_embedding(self, query: str) -> list[float]:
            self.asked += 1
            return super()._get_query_embedding(query)

    model = Counting()
    retriever = HybridRetriever.from_nodes(nodes(), model, similarity_top_k=1, route="vector")
    bundle = QueryBundle("gibberish", embedding=model._get_text_embedding("yellow fruit"))
    assert retriever.retrieve(bundle)[0].node_id == "n3"
    assert (await retriever.aretrieve(bundle))[0].node_id == "n3"
    assert model.asked == 0
    other = QueryBundle("yellow fruit", embedding=[1.0] * 7)  # of another model
    assert retriever.retrieve(other)[0].node_id == "n3"
    assert model.asked == 1


async def test_texts_to_embed_in_place_of_the_question_are_embedded() -> None:
    for model in (WordEmbedding(), AsyncWordEmbedding()):
        retriever = HybridRetriever.from_nodes(nodes(), model, similarity_top_k=1, route="vector")
        hyde = QueryBundle("gibberish", custom_embedding_strs=["yellow fruit", "bunches of yellow fruit"])
        assert retriever.retrieve(hyde)[0].node_id == "n3"
        assert (await retriever.aretrieve(hyde))[0].node_id == "n3"
        assert hyde.embedding is None


def one(key: str, value: Any, operator: str = "==") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([one("tenant", "a")], "024"),
        ([one("number", 2, ">"), one("tenant", "a")], "4"),
        ([one("number", 2, "<=")], "012"),
        ([one("tenant", "a", "!=")], "135"),
        ([one("number", [1, 5], "in")], "15"),
        ([one("number", [1, 5], "nin")], "0234"),
        ([one("tags", "Banana", "contains")], "3"),
        ([one("tags", ["Banana", "Helium"], "any")], "35"),
        ([one("tags", ["Banana", "x"], "all")], "3"),
        ([one("title", "Ada", "text_match")], "0"),
        ([one("title", "ada", "text_match")], ""),
        ([one("title", "ADA", "text_match_insensitive")], "0"),
        ([one("missing", None, "is_empty")], "012345"),
        ([one("title", None, "is_empty")], ""),
        ([], "012345"),
    ],
)
def test_filters(retriever: HybridRetriever, filters: list[MetadataFilter], expected: str) -> None:
    retriever.filters = MetadataFilters(filters=filters)
    assert sorted(n.node_id for n in retriever.retrieve(QUESTION)) == [f"n{n}" for n in expected]


def test_nested_filters(retriever: HybridRetriever) -> None:
    either = MetadataFilters(filters=[one("number", 0), one("number", 3)], condition=FilterCondition.OR)
    neither = MetadataFilters(filters=[one("number", 0), one("number", 3)], condition=FilterCondition.NOT)
    for filters, expected in (
        (MetadataFilters(filters=[either, one("tenant", "b")]), "3"),
        (MetadataFilters(filters=[neither, one("tenant", "b")]), "15"),
        (MetadataFilters(filters=[neither, one("title", "HELIUM", "text_match_insensitive")]), "5"),
        (MetadataFilters(filters=[either, one("tenant", "b")], condition=FilterCondition.OR), "0135"),
    ):
        retriever.filters = filters
        assert sorted(n.node_id for n in retriever.retrieve(QUESTION)) == [f"n{n}" for n in expected]


@pytest.mark.parametrize("key", ["doc_id", "document_id", "ref_doc_id"])
def test_filters_on_the_document(retriever: HybridRetriever, key: str) -> None:
    retriever.insert_nodes([TextNode(id_="own", text="Its own key.", metadata={key: "DOC0"})])
    for value, operator, expected in [
        ("doc0", "==", ["n0", "n1"]),
        ("doc0", "!=", ["n2", "n3", "n4", "n5", "own"]),
        (["doc0", "DOC0"], "in", ["n0", "n1", "own"]),
        ("oc2", "text_match", ["n4", "n5"]),
        ("DOC0", "text_match_insensitive", ["n0", "n1", "own"]),
    ]:
        retriever.filters = MetadataFilters(filters=[one(key, value, operator)])
        assert sorted(n.node_id for n in retriever.retrieve(QUESTION)) == expected, operator


def test_other_filters(retriever: HybridRetriever) -> None:
    for filters in ({"tenant": "a"}, lambda metadata: metadata["tenant"] == "a"):
        retriever.filters = filters
        assert sorted(n.node_id for n in retriever.retrieve(QUESTION)) == ["n0", "n2", "n4"]
    with pytest.raises(TypeError, match="MetadataFilters"):
        HybridRetriever(retriever.memory, filters="tenant")
    retriever.filters = {"n": {"$near": 1}}
    with pytest.raises(ValueError, match="near"):
        retriever.retrieve(QUESTION)


async def test_insert_replace_delete(retriever: HybridRetriever) -> None:
    await retriever.ainsert_nodes([TextNode(id_="neon", text="Neon glows red.", metadata={"title": "Neon"})])
    retriever.similarity_top_k = 1
    assert retriever.retrieve("What glows red?")[0].node_id == "neon"
    retriever.insert_nodes([TextNode(id_="neon", text="Neon glows.", metadata={"title": "Neon"})])
    assert retriever.retrieve("neon")[0].text == "Neon glows."
    retriever.delete_nodes(["neon", "unknown"])
    assert len(retriever.memory) == 6
    retriever.delete_ref_doc("doc0")
    await retriever.adelete_ref_doc("doc1")
    retriever.delete_ref_doc("unknown")
    assert sorted(p.id for p in retriever.memory.get([f"n{n}" for n in range(6)])) == ["n4", "n5"]
    assert not any("Babbage" in n.text for n in retriever.retrieve("Charles Babbage"))


async def test_documents_are_cut_refreshed_and_deleted() -> None:
    long = " ".join(f"Sentence number {n} is about Ada Lovelace and her engine." for n in range(400))
    given = [Document(id_="a", text=long, metadata={"title": "A"}), Document(id_="b", text="Helium is a gas.")]
    retriever = HybridRetriever.from_documents(given)
    assert len(retriever.memory) > 3
    before = len(retriever.memory)
    assert retriever.refresh_ref_docs(given) == [False, False]
    new = [given[0], Document(id_="b", text="Helium is a light gas."), Document(id_="c", text="Neon glows.")]
    assert retriever.refresh_ref_docs(new) == [False, True, True]
    assert len(retriever.memory) == before + 1
    retriever.similarity_top_k = 100
    assert [n.text for n in retriever.retrieve("helium") if n.node.ref_doc_id == "b"] == ["Helium is a light gas."]
    assert await retriever.arefresh_ref_docs([Document(id_="a", text="Short."), new[1]]) == [True, False]
    assert sorted(n.text for n in retriever.retrieve("helium")) == ["Helium is a light gas.", "Neon glows.", "Short."]
    retriever.delete_ref_doc("a")
    assert len(retriever.memory) == 2
    with pytest.raises(ValueError, match="same id"):
        retriever.refresh_ref_docs([new[1], new[1]])
    with pytest.raises(TypeError, match="Document"):
        retriever.refresh_ref_docs(["text"])


def test_a_refresh_that_was_interrupted_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = HybridRetriever.from_documents([Document(id_="a", text="The boss is Ada.")])
    new = Document(id_="a", text="The boss is Grace.")
    with monkeypatch.context() as patched:
        patched.setattr(retriever.memory, "delete", Mock(side_effect=OSError("disk full")))
        with pytest.raises(OSError, match="full"):
            retriever.refresh_ref_docs([new])
    assert retriever.refresh_ref_docs([new]) == [True]
    assert [n.text for n in retriever.retrieve("Who is the boss?")] == ["The boss is Grace."]
    assert retriever.refresh_ref_docs([new]) == [False]


@pytest.mark.parametrize("transformations", [None, []])
async def test_documents_without_text_are_left_out(transformations: Any, caplog: pytest.LogCaptureFixture) -> None:
    given = [Document(id_="a", text="Helium is a gas."), Document(id_="b", text="", metadata={"file_name": "b.md"})]
    retriever = HybridRetriever.from_documents(given, transformations=transformations)
    assert [n.get_content() for n in retriever.retrieve("gas")] == ["Helium is a gas."]
    assert "no text" in caplog.text
    assert await retriever.arefresh_ref_docs([Document(id_="a", text=" "), given[1]]) == [True, True]
    assert len(retriever.memory) == 0


def test_documents_inserted_whole_can_be_refreshed_too() -> None:
    retriever = HybridRetriever.from_documents([Document(id_="b", text="Helium.")], transformations=[])
    assert retriever.refresh_ref_docs([Document(id_="b", text="Helium.")]) == [False]
    assert retriever.refresh_ref_docs([Document(id_="b", text="Neon.")]) == [True]
    (found,) = retriever.retrieve("gas")
    assert isinstance(found.node, Document)
    assert found.get_content() == "Neon."
    retriever.delete_ref_doc("b")
    assert len(retriever.memory) == 0


def test_embeddings_that_nodes_carry_are_kept_only_beside_their_model() -> None:
    model = WordEmbedding()
    carrying = nodes()
    for node in carrying:
        node.embedding = model._get_text_embedding("the same for all")
    retriever = HybridRetriever.from_nodes(carrying, model)
    with retriever.memory.store.reading() as store:
        vectors = store.vectors.vectors(store.rows_of(["n0", "n3"]))
    assert (vectors[0] == vectors[1]).all()
    assert HybridRetriever.from_nodes(carrying).memory.store.vectors.dimension != 32


def test_index_nodes_lead_to_their_objects() -> None:
    inner = HybridRetriever.from_nodes(nodes(), similarity_top_k=1)
    outer = HybridRetriever.from_nodes([IndexNode(text="All about computing", index_id="inner", obj=inner)])
    assert [n.node_id for n in outer.retrieve("yellow fruit")] == ["n3"]


def test_reopening_gives_the_same_answers(tmp_path: Path) -> None:
    first = HybridRetriever.from_nodes(nodes(), persist_dir=tmp_path / "memory", similarity_top_k=3)
    answers = first.retrieve(QUESTION)
    first.close()
    second = HybridRetriever.from_persist_dir(tmp_path / "memory", similarity_top_k=3)
    assert second.retrieve(QUESTION) == answers
    second.close()
    with pytest.raises(EmbedderMismatchError):
        HybridRetriever.from_persist_dir(tmp_path / "memory", WordEmbedding())
    with pytest.raises(FileNotFoundError, match="from_nodes"):
        HybridRetriever.from_persist_dir(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("hello")
    with pytest.raises(MemoryFormatError):
        HybridRetriever.from_persist_dir(tmp_path / "other")


def test_a_memory_made_elsewhere_gives_text_nodes() -> None:
    with HybridMemory() as memory:
        memory.add([Passage("Helium is a gas.", title="Helium", id="p", metadata={"x": 1})])
        found = HybridRetriever(memory).retrieve("helium")[0]
    assert isinstance(found.node, TextNode)
    assert (found.node_id, found.text) == ("p", "Helium is a gas.")
    assert found.node.metadata["title"] == "Helium"
    assert found.node.metadata["x"] == 1


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([TextNode(text=" ")], ValueError, "empty"),
        (["text"], TypeError, "node"),
        (TextNode(text="a"), TypeError, "list of nodes"),
        ([TextNode(id_="1", text="a"), TextNode(id_="1", text="b")], ValueError, "same id"),
        ([TextNode(text="a", metadata={"x": {1}})], TypeError, "JSON"),
        ([TextNode(text="a", metadata={"x": float("nan")})], ValueError, "JSON"),
    ],
)
async def test_bad_nodes_are_refused_and_nothing_is_stored(
    retriever: HybridRetriever, given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        retriever.insert_nodes(given)
    with pytest.raises(error, match=words):
        await retriever.ainsert_nodes(given)
    assert len(retriever.memory) == 6


async def test_bad_questions_and_settings_are_refused(retriever: HybridRetriever) -> None:
    for question in ("", "  "):
        with pytest.raises(ValueError, match="empty"):
            retriever.retrieve(question)
        with pytest.raises(ValueError, match="empty"):
            await retriever.aretrieve(question)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="similarity_top_k"):
            HybridRetriever(retriever.memory, similarity_top_k=bad)
    with pytest.raises(TypeError, match="similarity_top_k"):
        retriever.similarity_top_k = "3"
    with pytest.raises(TypeError, match="top_k"):
        HybridRetriever.from_nodes(nodes(), top_k=3)
    with pytest.raises(TypeError, match="BaseEmbedding"):
        HybridRetriever.from_nodes(nodes(), embed_model="local")
    with pytest.raises(ValueError, match="search_type"):
        HybridRetriever(retriever.memory, search_type="best")
    with pytest.raises(TypeError, match="HybridMemory"):
        HybridRetriever("memory")


async def test_an_empty_memory_answers_with_nothing() -> None:
    retriever = HybridRetriever.from_nodes([])
    assert retriever.retrieve(QUESTION) == []
    assert await retriever.aretrieve(QUESTION) == []
    assert retriever.facts(QUESTION) == await retriever.afacts(QUESTION) == []


async def test_explains_what_it_finds_with_its_own_filter_and_route() -> None:
    model = AsyncWordEmbedding()
    only_even = MetadataFilters(filters=[MetadataFilter(key="tenant", value="a")])
    retriever = HybridRetriever.from_nodes(nodes(), model, filters=only_even, route="both", similarity_top_k=3)
    why = retriever.explain(QUESTION)
    assert [hit.passage.id for hit in why.hits] == [found.node_id for found in retriever.retrieve(QUESTION)]
    assert (why.asked_route, why.filtered) == ("both", True)
    before = model.awaited
    assert (await retriever.aexplain(QUESTION)).to_dict() == why.to_dict()
    assert model.awaited > before
    assert len(retriever.explain(QUESTION, k=1).hits) == 1


async def test_explanations_respect_the_filter() -> None:
    retriever = HybridRetriever.from_nodes(nodes(), AsyncWordEmbedding(), similarity_top_k=2)
    explained = retriever.explain(QUESTION)
    assert explained == await retriever.aexplain(QUESTION)
    retriever.filters = MetadataFilters(filters=[one("tenant", "b")])
    assert "wrote the first program" not in str(retriever.explain(QUESTION))
    assert "wrote the first program" not in str(await retriever.aexplain(QUESTION))


def test_keys_that_look_like_the_packages_own_are_the_users() -> None:
    metadata = {"z": 1, "hybridmem": "mine", "_hybridmem_x": 2, "_hybridmem_node": "a copy's", "a": 3}
    node = TextNode(id_="n", text="Helium is a gas.", metadata=metadata)
    with closing(HybridRetriever.from_nodes([node], filters={"hybridmem": "mine"})) as made:
        (found,) = made.retrieve("helium")
        kept = {key: value for key, value in found.node.metadata.items() if key != "hybridmem"}
        assert kept == {"z": 1, "_hybridmem_x": 2, "a": 3}
        assert "routes" in found.node.metadata["hybridmem"]
        made.insert_nodes([found.node])  # why it was found is not stored
        made.filters = None
        assert made.memory.search("helium")[0].passage.metadata.keys().isdisjoint({"hybridmem"})


def test_many_documents_are_not_compared_each_with_each(retriever: HybridRetriever) -> None:
    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    class Named(Document):
        @property
        def node_id(self) -> str:
            return Counted(self.id_)

    documents = [Named(id_=f"document {n}", text="x") for n in range(300)]
    assert all(retriever._documents.changed(documents))
    assert Counted.compared < 10 * len(documents)
    with pytest.raises(ValueError, match="documents 3 and 300 have the same id 'document 3'"):
        retriever._documents.changed([*documents, documents[3]])
