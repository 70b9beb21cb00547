"""HnswVectorStore in LangChain: searching, scores, filters, indexing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from lc_helpers import TEXTS, AsyncOnlyEmbeddings, AsyncWordEmbeddings, WordEmbeddings, documents

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.langchain import HnswVectorStore

EMBEDDING = WordEmbeddings()


@pytest.fixture
def store() -> HnswVectorStore:
    return HnswVectorStore.from_documents(documents(), EMBEDDING)


def cosine(first: Any, second: Any) -> float:
    return float(np.dot(first, second) / np.linalg.norm(first) / np.linalg.norm(second))


async def test_scores_are_cosine_similarities(store: HnswVectorStore) -> None:
    question = "yellow fruit from warm countries"
    scored = store.similarity_search_with_score(question, k=6)
    assert scored == await store.asimilarity_search_with_score(question, k=6)
    assert [score for _, score in scored] == sorted((score for _, score in scored), reverse=True)
    for doc, score in scored:
        text = f"{doc.metadata['title']}\n{doc.page_content}"
        expected = cosine(EMBEDDING.embed_query(question), EMBEDDING.embed_query(text))
        assert score == pytest.approx(expected, abs=1e-5)
    assert [doc for doc, _ in scored] == store.similarity_search(question, k=6)
    assert await store.asimilarity_search(question, k=6) == store.similarity_search(question, k=6)
    assert scored[0][0] == documents()[3]  # no score in the metadata


async def test_relevance_lies_between_0_and_1_and_has_a_threshold(store: HnswVectorStore) -> None:
    question = "yellow fruit"
    relevant = store.similarity_search_with_relevance_scores(question, k=6)
    assert all(0 <= score <= 1 for _, score in relevant)
    threshold = relevant[1][1]
    for found in (
        store.similarity_search_with_relevance_scores(question, k=6, score_threshold=threshold),
        await store.asimilarity_search_with_relevance_scores(question, k=6, score_threshold=threshold),
    ):
        assert found == relevant[:2]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 6, "score_threshold": threshold}
    )
    assert retriever.invoke(question) == [doc for doc, _ in relevant[:2]]


async def test_filters_and_any_k(store: HnswVectorStore) -> None:
    for allowed in ({"tenant": "a"}, lambda metadata: metadata["tenant"] == "a"):
        found = store.similarity_search("fruit", k=50, filter=allowed)
        assert sorted(str(doc.id) for doc in found) == ["d0", "d2", "d4"]
        assert found == await store.asimilarity_search("fruit", 50, allowed)
        assert await store.asimilarity_search_with_score("fruit", 2, allowed) == store.similarity_search_with_score(
            "fruit", 2, allowed
        )
        diverse = store.max_marginal_relevance_search("fruit", 2, 20, 0.5, allowed)
        assert await store.amax_marginal_relevance_search("fruit", 2, 20, 0.5, allowed) == diverse
        assert store.as_retriever(search_kwargs={"filter": allowed, "k": 9}).invoke("fruit") == found
    assert store.similarity_search("fruit", filter={"tenant": "c"}) == []
    with pytest.raises(ValueError, match="near"):
        store.similarity_search("fruit", filter={"n": {"$near": 1}})
    with pytest.raises(ValueError, match="k must"):
        store.similarity_search("fruit", k=0)
    with pytest.raises(TypeError, match="fetch_k must"):
        store.max_marginal_relevance_search("fruit", fetch_k="9")
    assert store.similarity_search("fruit", k=np.int64(2)) == store.similarity_search("fruit", k=2)
    with pytest.raises(TypeError, match="kk"):
        store.similarity_search("fruit", kk=0)
    with pytest.raises(ValueError, match="length 32"):
        store.similarity_search_by_vector([1.0])
    with pytest.raises(TypeError, match="string"):
        store.similarity_search(None)
    bundled = HnswVectorStore()
    with pytest.raises(ValueError, match="the query has a lone surrogate"):
        bundled.similarity_search("\ud800")
    with pytest.raises(ValueError, match="the query has a lone surrogate"):
        await bundled.asimilarity_search_with_score("\ud800")


async def test_mmr(store: HnswVectorStore) -> None:
    store.add_texts([f"Helium is a light gas number {n}." for n in range(4)], ids=[f"s{n}" for n in range(4)])
    question = "helium is a light gas number"
    assert {doc.id for doc in store.similarity_search(question, k=3)} <= {f"s{n}" for n in range(4)}
    found = store.max_marginal_relevance_search(question, k=3, fetch_k=10, lambda_mult=0.1)
    assert not {doc.id for doc in found} <= {f"s{n}" for n in range(4)}
    assert found == await store.amax_marginal_relevance_search(question, k=3, fetch_k=10, lambda_mult=0.1)
    settings = {"k": 3, "fetch_k": 10, "lambda_mult": 0.1}
    assert store.as_retriever(search_type="mmr", search_kwargs=settings).invoke(question) == found
    assert len(store.max_marginal_relevance_search(question, k=3, filter={"tenant": "a"})) == 3
    assert HnswVectorStore(EMBEDDING).max_marginal_relevance_search(question) == []


async def test_native_async_embeddings_are_awaited() -> None:
    embedding = AsyncWordEmbeddings()
    store = HnswVectorStore(embedding)
    await store.aadd_documents(documents())
    assert len(embedding.awaited) >= 6
    embedding.awaited.clear()
    found = await asyncio.gather(*(store.asimilarity_search(text, k=1) for text in TEXTS.values()))
    assert [doc.id for (doc,) in found] == [f"d{n}" for n in range(6)]
    assert sorted(embedding.awaited) == sorted(TEXTS.values())


def graph_ids(memory: HybridMemory) -> set[str]:
    return {data["id"] for _, data in memory.graph.nodes(data=True) if data.get("kind") == "passage"}


def source(name: str, *texts: str) -> list[Document]:
    return [Document(page_content=text, metadata={"source": name, "title": text.split()[0]}) for text in texts]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("cleanup", [None, "incremental", "full", "scoped_full"])
async def test_indexing_keeps_vectors_and_graph_in_step(cleanup: Any, is_async: bool) -> None:
    store, records = HnswVectorStore(EMBEDDING), InMemoryRecordManager("tests")
    records.create_schema()

    async def run(docs: list[Document]) -> dict[str, int]:
        settings = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "blake2b"}
        if is_async:
            return dict(await aindex(docs, records, store, **settings))
        return dict(index(docs, records, store, **settings))

    first = [*source("a", "Helium is a gas.", "Neon is a gas."), *source("b", "Bread is food.")]
    counts = {"num_added": 3, "num_updated": 0, "num_skipped": 0, "num_deleted": 0}
    assert await run(first) == counts
    assert await run(first) == {**counts, "num_added": 0, "num_skipped": 3}
    changed = source("a", "Helium is a gas.", "Argon is a gas.")
    gone = {None: 0, "incremental": 1, "scoped_full": 1, "full": 2}[cleanup]
    assert await run(changed) == {"num_added": 1, "num_updated": 0, "num_skipped": 1, "num_deleted": gone}
    found = store.similarity_search("gas", k=9)
    assert len(found) == 4 - gone == len(store.memory)
    assert graph_ids(store.memory) == {doc.id for doc in found}
    assert store.memory.graph.has_node("argon")
    assert store.memory.graph.has_node("neon") == (cleanup is None)
    hybrid = store.as_hybrid_retriever(k=9)
    assert {doc.id for doc in hybrid.invoke("neon")} == {doc.id for doc in found}


async def test_delete(store: HnswVectorStore) -> None:
    assert store.delete(["d0", "unknown"]) is True
    assert await store.adelete(filter={"tenant": "a"}) is True
    assert sorted(str(doc.id) for doc in store.similarity_search("fruit", k=9)) == ["d1", "d3", "d5"]
    with pytest.raises(ValueError, match="ids or a filter"):
        store.delete()
    assert len(store.memory) == 3


def test_reopening_and_sharing(tmp_path: Path) -> None:
    first = HnswVectorStore.from_documents(documents(), EMBEDDING, persist_directory=tmp_path / "memory")
    found = first.similarity_search("fruit")
    first.close()
    second = HnswVectorStore(EMBEDDING, tmp_path / "memory")
    assert second.similarity_search("fruit") == found
    assert second.embeddings is EMBEDDING
    third = HnswVectorStore(memory=second.memory)
    assert third.embeddings is None
    assert third.similarity_search("fruit") == found
    second.close()
    with pytest.raises(ValueError, match="give a memory"):
        HnswVectorStore(EMBEDDING, memory=second.memory)


async def test_what_it_holds_without_an_embedding_given() -> None:
    found = HnswVectorStore.from_documents(documents()).similarity_search("noble gas", k=1)
    assert found == await (await HnswVectorStore.afrom_documents(documents())).asimilarity_search("noble gas", k=1)
    store = HnswVectorStore.from_texts(["Helium is a gas.", "Bread is food."])
    assert store.similarity_search("noble gas", k=1)[0].page_content == "Helium is a gas."
    assert (await store.asimilarity_search("noble gas", k=1))[0].page_content == "Helium is a gas."


async def test_a_store_is_made_with_async_embeddings_alone() -> None:
    store = await HnswVectorStore.afrom_texts(["a", "b"], AsyncOnlyEmbeddings(), ids=["x", "y"])
    assert [doc.id for doc in await store.asimilarity_search("a", k=1)] == ["x"]
    with pytest.raises(ValueError, match="3 ids for 1"):
        await HnswVectorStore.afrom_texts(["a"], EMBEDDING, ids=["x", "y", "z"])


def test_an_empty_memory_that_is_given_is_the_one_that_is_filled() -> None:
    with HybridMemory() as memory:
        HnswVectorStore(memory=memory).add_texts(["Ada wrote it."], ids=["a"])
        assert [passage.id for passage in memory.get(["a"])] == ["a"]
