"""HybridRetriever in LangChain: results, keywords, composition, writing, bad input."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from lc_helpers import TEXTS, AsyncOnlyEmbeddings, AsyncWordEmbeddings, WordEmbeddings, documents

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.errors import EmbedderMismatchError, MemoryFormatError
from hybridmem_plugins.langchain import HnswVectorStore, HybridRetriever, as_networkx, create_hybrid_chain
from ticking import Ticking

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"


def test_finds_both_hops_with_scores_and_reasons(retriever: HybridRetriever) -> None:
    found = retriever.invoke(QUESTION, k=2)
    assert {doc.id for doc in found} == {"d0", "d1"}
    for doc in found:
        assert isinstance(doc.metadata["score"], float)
        assert 0 <= doc.metadata["score"] <= 1
        assert doc.metadata["hybridmem"]["routes"]
    assert found[0].metadata["score"] >= found[1].metadata["score"]
    json.dumps([doc.model_dump() for doc in retriever.invoke(QUESTION)])  # plain JSON


def test_documents_come_back_as_they_were_stored(retriever: HybridRetriever) -> None:
    for doc in retriever.invoke(QUESTION, k=6):
        original = documents()[int(str(doc.id)[1:])]
        kept = {key: value for key, value in doc.metadata.items() if key not in ("score", "hybridmem")}
        assert doc.page_content == original.page_content
        assert kept == original.metadata


def test_inputs_and_the_memory_are_not_touched_by_what_callers_do() -> None:
    given = documents()
    retriever = HybridRetriever.from_documents(given)
    retriever.invoke(QUESTION)[0].metadata["number"] = "changed"
    assert given == documents()
    assert all(doc.metadata["number"] != "changed" for doc in retriever.invoke(QUESTION))


def test_a_score_of_the_users_own_is_kept() -> None:
    retriever = HybridRetriever.from_texts(["Helium is a gas."], metadatas=[{"score": "mine"}])
    found = retriever.invoke("helium")[0]
    assert found.metadata["score"] == "mine"
    assert isinstance(found.metadata["hybridmem"]["score"], float)


def test_scores_can_be_named_or_left_out(retriever: HybridRetriever) -> None:
    plain = HybridRetriever(memory=retriever.memory, score_key=None, provenance_key=None).invoke(QUESTION)[0]
    assert set(plain.metadata) == {"title", "tenant", "number"}
    assert "points" in HybridRetriever(memory=retriever.memory, score_key="points").invoke(QUESTION)[0].metadata


def test_found_documents_can_be_stored_again_without_their_scores(retriever: HybridRetriever) -> None:
    other = HybridRetriever.from_documents(retriever.invoke(QUESTION, k=6))
    assert sorted(p.id for p in other.memory.get([f"d{n}" for n in range(6)])) == [f"d{n}" for n in range(6)]
    assert set(other.memory.get(["d0"])[0].metadata) == {"title", "tenant", "number"}


async def test_sync_and_async_take_the_same_keywords(retriever: HybridRetriever) -> None:
    keywords: dict[str, Any] = {"k": 2, "filter": {"tenant": "b"}, "route": "semantic"}
    found = retriever.invoke(QUESTION, **keywords)
    assert found == await retriever.ainvoke(QUESTION, **keywords)
    assert [doc.metadata["tenant"] for doc in found] == ["b", "b"]
    assert found == retriever.batch([QUESTION], **keywords)[0] == (await retriever.abatch([QUESTION], **keywords))[0]
    with pytest.raises(TypeError, match="kk"):
        retriever.invoke(QUESTION, kk=2)
    with pytest.raises(TypeError, match="kk"):
        await retriever.ainvoke(QUESTION, kk=2)


def test_a_filter_of_the_call_narrows_that_of_the_retriever(retriever: HybridRetriever) -> None:
    own = HybridRetriever(memory=retriever.memory, filter={"tenant": "a"})
    assert {doc.metadata["tenant"] for doc in own.invoke(QUESTION)} == {"a"}
    assert own.invoke(QUESTION, filter={"tenant": "b"}) == []
    assert [doc.id for doc in own.invoke(QUESTION, filter=lambda metadata: metadata["number"] > 3)] == ["d4"]


async def test_fifty_at_once_equal_one_by_one_and_the_loop_keeps_ticking() -> None:
    ticking = Ticking()

    class Waiting(WordEmbeddings):
        def embed_query(self, text: str) -> list[float]:
            ticking.wait_for_a_turn()
            return super().embed_query(text)

    questions = [f"What do you know about {title}? {n}" for n in range(9) for title in TEXTS][:50]
    plain = HybridRetriever.from_documents(documents(), WordEmbeddings())
    one_by_one = [plain.invoke(question, k=3) for question in questions]
    waiting = HybridRetriever.from_documents(documents(), Waiting(), memory_options={"router": ticking.router})
    async with ticking:
        assert await asyncio.gather(*(waiting.ainvoke(question, k=3) for question in questions)) == one_by_one
    assert ticking.waits >= 100  # while embedding and while searching, for each question


async def test_native_async_embeddings_are_awaited_many_at_a_time() -> None:
    embedding = AsyncWordEmbeddings()
    retriever = HybridRetriever.from_documents([], embedding)
    await retriever.aadd_documents(documents())
    assert len(embedding.awaited) >= 6
    embedding.awaited.clear()
    found = await asyncio.gather(*(retriever.ainvoke(f"yellow fruit {n}", k=2) for n in range(40)))
    assert embedding.most_waiting > 10  # one by one: 1
    assert len(embedding.awaited) == 40
    assert [docs[0].id for docs in found] == ["d3"] * 40
    assert found[0] == retriever.invoke("yellow fruit 0", k=2)


async def test_an_error_of_the_embedding_reaches_the_caller() -> None:
    class Broken(AsyncWordEmbeddings):
        async def aembed_query(self, text: str) -> list[float]:
            await asyncio.sleep(0)
            msg = "the service is away"
            raise TimeoutError(msg)

    retriever = HybridRetriever.from_documents(documents(), Broken())
    with pytest.raises(TimeoutError, match="away"):
        await retriever.ainvoke(QUESTION)


def test_configurable_fields_share_the_memory(retriever: HybridRetriever) -> None:
    flexible = retriever.configurable_fields(
        k=ConfigurableField(id="k"), filter=ConfigurableField(id="filter"), route=ConfigurableField(id="route")
    )
    assert len(flexible.invoke(QUESTION, config={"configurable": {"k": 1}})) == 1
    chosen = flexible.with_config(configurable={"k": 6, "filter": {"tenant": "b"}}).invoke(QUESTION)
    assert [doc.metadata["tenant"] for doc in chosen] == ["b"] * 3


def test_copies_share_the_memory_and_pickles_are_refused(retriever: HybridRetriever) -> None:
    chain = create_hybrid_chain(retriever.bind(k=2), FakeListChatModel(responses=["Charles Babbage"]))
    store = HnswVectorStore(memory=retriever.memory)
    for held in (copy.deepcopy(chain), copy.deepcopy(store), retriever.model_copy(deep=True), copy.copy(retriever)):
        held.invoke(QUESTION) if isinstance(held, Runnable) else held.similarity_search(QUESTION)
        assert as_networkx(getattr(held, "system", held)).nodes == retriever.memory.graph.nodes
    local = create_hybrid_chain(retriever)
    assert copy.deepcopy(local).system.model is local.system.model
    assert copy.deepcopy(retriever.memory) is copy.copy(retriever.memory) is retriever.memory
    with pytest.raises(TypeError, match="HybridMemory cannot be pickled"):
        pickle.dumps(retriever)


def test_an_lcel_chain(retriever: HybridRetriever) -> None:
    seen: list[str] = []

    def read(docs: list[Document]) -> str:
        seen.extend(str(doc.id) for doc in docs)
        return "\n".join(doc.page_content for doc in docs)

    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")
    model = FakeListChatModel(responses=["Charles Babbage"])
    chain = {"context": retriever | read, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()
    assert chain.invoke(QUESTION) == "Charles Babbage"
    assert seen[:2] in (["d0", "d1"], ["d1", "d0"])


async def test_tools(retriever: HybridRetriever) -> None:
    tool = create_retriever_tool(retriever, "search", "Find passages.", response_format="content_and_artifact")
    call = {"name": "search", "args": {"query": QUESTION}, "id": "1", "type": "tool_call"}
    assert [doc.id for doc in tool.invoke(call).artifact] == [doc.id for doc in retriever.invoke(QUESTION)]
    own = retriever.as_agent_tool("search", "Find passages.")
    message = await own.ainvoke(call)
    assert message.artifact == own.invoke(call).artifact == retriever.invoke(QUESTION)
    assert "(id: d0)" in message.content
    assert "Analytical Engine" in message.content
    assert set(own.args) == {"query"}


async def test_an_agent_that_asks_nothing_is_told_so(retriever: HybridRetriever) -> None:
    from langgraph.graph import END, START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    graph = StateGraph(MessagesState).add_node("tools", ToolNode([retriever.as_agent_tool("search")]))
    agent = graph.add_edge(START, "tools").add_edge("tools", END).compile()
    for query in ("", " \n"):
        call = {"name": "search", "args": {"query": query}, "id": "1", "type": "tool_call"}
        asked = {"messages": [AIMessage("", tool_calls=[call])]}
        for told in (agent.invoke(asked), await agent.ainvoke(asked)):
            assert told["messages"][-1].status == "error"
            assert "the query is empty" in told["messages"][-1].content


def test_a_langgraph_checkpoint_keeps_documents(retriever: HybridRetriever) -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    serializer = JsonPlusSerializer()
    found = retriever.invoke(QUESTION)
    assert serializer.loads_typed(serializer.dumps_typed(found)) == found


def test_tracing_names_the_parts(retriever: HybridRetriever) -> None:
    params = retriever._get_ls_params()
    assert params["ls_vector_store_provider"] == "hnswlib+networkx"
    assert "WordEmbeddings" in str(
        HybridRetriever.from_documents([], WordEmbeddings())._get_ls_params()["ls_embedding_provider"]
    )


async def test_add_replace_delete(retriever: HybridRetriever) -> None:
    ids = retriever.add_documents([Document(page_content="Neon glows red.", metadata={"title": "Neon"})])
    assert retriever.add_documents([Document(page_content="Neon glows red.", metadata={"title": "Neon"})]) == ids
    assert len(retriever.memory) == 7
    assert retriever.add_documents((Document(page_content="Neon glows red.") for _ in ids), (one for one in ids)) == ids
    assert retriever.invoke("What glows red?", k=1)[0].id == ids[0]
    assert (
        await retriever.aadd_documents([Document(page_content="Neon glows.", metadata={"title": "Neon"})], ids) == ids
    )
    assert retriever.invoke("neon", k=1)[0].page_content == "Neon glows."
    assert retriever.delete(ids=[*ids, "unknown"]) is True
    assert ids[0] not in {doc.id for doc in retriever.invoke("neon")}
    assert await retriever.adelete(filter={"tenant": "a"}) is True
    assert sorted(str(doc.id) for doc in retriever.invoke("neon")) == ["d1", "d3", "d5"]
    for bad in ({}, {"ids": ["d1"], "filter": {"a": 1}}):
        with pytest.raises(ValueError, match="ids or a filter"):
            retriever.delete(**bad)
    assert len(retriever.memory) == 3


async def test_async_makers_embed_on_the_event_loop_alone(tmp_path: Path) -> None:
    made = await HybridRetriever.afrom_documents(documents(), AsyncOnlyEmbeddings(), tmp_path / "m", k=2)
    found = await made.ainvoke(QUESTION)
    await made.aclose()
    again = await HybridRetriever.afrom_persist_directory(tmp_path / "m", AsyncOnlyEmbeddings(), k=2)
    assert await again.ainvoke(QUESTION) == found
    await again.aclose()
    store = await HnswVectorStore.afrom_texts(["Neon."], AsyncOnlyEmbeddings(), persist_directory=tmp_path / "m")
    assert len(store.memory) == 7
    await store.aclose()
    texts = await HybridRetriever.afrom_texts(["Neon glows.", "Bread."], metadatas=[{"n": 1}, {"n": 2}], ids=["a", "b"])
    assert (await texts.ainvoke("What glows?", k=1))[0].metadata["n"] == 1
    with pytest.raises(FileNotFoundError, match="from_documents"):
        await HybridRetriever.afrom_persist_directory(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="same id"):
        await HybridRetriever.afrom_documents(documents()[:2], ids=["1", "1"], persist_directory=tmp_path / "n")


async def test_an_async_question_waits_for_a_writer_off_the_event_loop() -> None:
    ticking = Ticking()
    retriever = HybridRetriever.from_documents(documents(), AsyncWordEmbeddings())

    writing, asked = threading.Event(), threading.Event()

    def write() -> None:
        with retriever.memory.store._coordinator.writing():
            writing.set()
            asked.wait()
            for _ in range(5):
                ticking.wait_for_a_turn()

    async with ticking:
        writer = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.to_thread(writing.wait)
        asked.set()
        assert await retriever.ainvoke("fruit", k=1)
        await writer


def test_pages_that_say_the_same_are_two_documents() -> None:
    pages = [Document(page_content="This page is blank.", metadata={"page": n}) for n in (1, 2)]
    retriever = HybridRetriever.from_documents([*pages, pages[0]])
    assert sorted(doc.metadata["page"] for doc in retriever.invoke("blank")) == [1, 2]


def test_reopening_gives_the_same_answers(tmp_path: Path) -> None:
    first = HybridRetriever.from_documents(documents(), persist_directory=tmp_path / "memory", k=3)
    answers = first.invoke(QUESTION)
    first.close()
    second = HybridRetriever.from_persist_directory(tmp_path / "memory", k=3)
    assert second.invoke(QUESTION) == answers
    second.close()
    third = HybridRetriever.from_documents([Document(page_content="Neon.")], persist_directory=tmp_path / "memory")
    assert len(third.memory) == 7
    third.close()
    with pytest.raises(EmbedderMismatchError):
        HybridRetriever.from_persist_directory(tmp_path / "memory", WordEmbeddings())
    with pytest.raises(FileNotFoundError, match="from_documents"):
        HybridRetriever.from_persist_directory(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "memory.sqlite").write_text("no database, but long enough to be looked at")
    (tmp_path / "other" / "notes.txt").write_text("hello")
    with pytest.raises(MemoryFormatError):
        HybridRetriever.from_persist_directory(tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "ids", "error", "words"),
    [
        ([Document(page_content="  ")], None, ValueError, "empty"),
        (["text"], None, TypeError, "not a Document"),
        ("text", None, TypeError, "list of Document"),
        (Document(page_content="text"), None, TypeError, "list of Document"),
        ([Document(page_content="a"), Document(page_content="b")], ["1", "1"], ValueError, "same id"),
        ([Document(page_content="a"), Document(page_content="a")], ["1", "1"], ValueError, "same id"),
        ([Document(page_content="a")], ["1", "2"], ValueError, "2 ids for 1"),
        ([Document(page_content="a")], "1", TypeError, "list of strings"),
        ([Document(page_content="a", metadata={"x": np.float32(1)})], None, TypeError, r"float32 \(numpy\); .*JSON"),
        ([Document(page_content="a", metadata={"x": np.bool_(1)})], None, TypeError, r"bool \(numpy\); .*JSON"),
        ([Document(page_content="a", metadata={"x": {1}})], None, TypeError, "JSON"),
        ([Document(page_content="a", metadata={"x": float("nan")})], None, ValueError, "JSON"),
        ([Document(page_content="a\ud800")], None, ValueError, "surrogate"),
    ],
)
async def test_bad_documents_are_refused_and_nothing_is_stored(
    retriever: HybridRetriever, given: Any, ids: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        retriever.add_documents(given, ids=ids)
    with pytest.raises(error, match=words):
        await retriever.aadd_documents(given, ids=ids)
    good = [Document(page_content="fine")]
    if isinstance(given, list) and ids is None:
        with pytest.raises(error, match=words):
            retriever.add_documents(good + given)
    assert len(retriever.memory) == 6


@pytest.mark.parametrize(
    ("question", "keywords", "error"),
    [
        ("", {}, ValueError),
        (" \n", {}, ValueError),
        (None, {}, TypeError),
        (QUESTION, {"k": 0}, ValueError),
        (QUESTION, {"k": "3"}, TypeError),
        (QUESTION, {"route": "wrong"}, ValueError),
        (QUESTION, {"filter": {"n": {"$near": 1}}}, ValueError),
        (QUESTION, {"filter": [1]}, TypeError),
    ],
)
async def test_bad_questions_are_refused(
    retriever: HybridRetriever, question: Any, keywords: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        retriever.invoke(question, **keywords)
    with pytest.raises(error):
        await retriever.ainvoke(question, **keywords)


def test_bad_settings_are_refused(retriever: HybridRetriever) -> None:
    for bad in ({"kk": 3}, {"k": 0}, {"route": "wrong"}, {"search_type": "best"}, {"lambda_mult": 2}, {"memory": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            HybridRetriever(**{"memory": retriever.memory, **bad})
    with pytest.raises(ValueError, match="near"):
        HybridRetriever(memory=retriever.memory, filter={"n": {"$near": 1}})
    with pytest.raises(TypeError, match="a filter is a dict"):
        HybridRetriever(memory=retriever.memory, filter=[1])
    with pytest.raises(ValueError, match="kk"):
        HybridRetriever.from_documents(documents(), kk=3)
    with pytest.raises(TypeError, match="Embeddings"):
        HybridRetriever.from_documents(documents(), embedding="openai")
    with pytest.raises(TypeError, match="list of strings"):
        HybridRetriever.from_texts("text")
    with pytest.raises(ValueError, match="2 metadatas for 1"):
        HybridRetriever.from_texts(["text"], metadatas=[{}, {}])


@pytest.mark.parametrize("vector", [[float("nan")] * 32, [1.0, 2.0], "text"])
def test_vectors_that_cannot_be_stored(vector: Any) -> None:
    class Bad(WordEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            good = super().embed_documents(texts)
            return [*good[:-1], vector] if len(texts) > 1 else good

    with pytest.raises(ValueError, match=r"embedder|vector"):
        HybridRetriever.from_documents(documents(), Bad())


async def test_an_empty_memory_answers_with_nothing() -> None:
    retriever = HybridRetriever.from_documents([])
    assert retriever.invoke(QUESTION) == []
    assert await retriever.ainvoke(QUESTION) == []
    assert retriever.facts(QUESTION) == []


async def test_facts_respect_the_filter(retriever: HybridRetriever) -> None:
    facts = retriever.facts("Ada Lovelace", k=3)
    assert facts == await retriever.afacts("Ada Lovelace", k=3)
    assert facts
    own = HybridRetriever(memory=retriever.memory, filter={"tenant": "b"})
    assert {fact.passage_id for fact in own.facts("Ada Lovelace", k=9)} <= {"d1", "d3", "d5"}


def test_any_memory_can_be_shared() -> None:
    with HybridMemory() as memory:
        first, second = HybridRetriever(memory=memory), HybridRetriever(memory=memory, k=1)
        first.add_documents(documents())
        assert len(second.invoke(QUESTION)) == 1


async def test_explains_what_it_finds_with_its_own_filter_and_route() -> None:
    embedding = AsyncWordEmbeddings()
    retriever = HybridRetriever.from_documents(documents(), embedding, filter={"tenant": "a"}, route="both")
    why = retriever.explain(QUESTION, k=3)
    assert [hit.passage.id for hit in why.hits] == [doc.id for doc in retriever.invoke(QUESTION, k=3)]
    assert (why.asked_route, why.filtered) == ("both", True)
    assert {hit.passage.metadata["tenant"] for hit in why.hits} == {"a"}
    before = len(embedding.awaited)
    assert (await retriever.aexplain(QUESTION, k=3)).to_dict() == why.to_dict()
    assert len(embedding.awaited) > before
    narrowed = retriever.explain(QUESTION, filter={"number": 2})
    assert [hit.passage.id for hit in narrowed.hits] == ["d2"]


async def test_explanations_respect_the_filter(retriever: HybridRetriever) -> None:
    assert retriever.explain(QUESTION, k=2) == await retriever.aexplain(QUESTION, k=2)
    own = HybridRetriever(memory=retriever.memory, filter={"tenant": "b"})
    assert "wrote the first program" not in str(own.explain(QUESTION))
    assert "wrote the first program" not in str(await own.aexplain(QUESTION))
