"""Rerankers, diversity and parents behind the LangChain retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.stores import InMemoryStore
from lc_helpers import documents

from hybridmem_plugins.langchain import HybridRetriever

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"


class Longest(BaseDocumentCompressor):
    """Puts long texts first; forgets ids and metadata, as some rerankers do."""

    forget: bool = True
    seen: list[int] = []  # noqa: RUF012

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        assert query == QUESTION
        self.seen.append(len(documents))
        ranked = sorted(documents, key=lambda doc: -len(doc.page_content))
        if not self.forget:
            return ranked
        return [
            Document(page_content=doc.page_content, metadata={"relevance_score": np.float32(len(doc.page_content))})
            for doc in ranked
        ]


class Async(Longest):
    """Only works when awaited."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        raise NotImplementedError

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        return Longest.compress_documents(self, documents, query)


@pytest.mark.parametrize("forget", [True, False])
async def test_a_reranker_orders_and_metadata_is_kept(retriever: HybridRetriever, forget: bool) -> None:
    reranker = Longest(forget=forget)
    ranked = HybridRetriever(memory=retriever.memory, k=2, reranker=reranker)
    found = ranked.invoke(QUESTION)
    by_id = {doc.id: doc for doc in documents()}
    longest = sorted(by_id.values(), key=lambda doc: -len(doc.page_content))[:2]
    assert [doc.id for doc in found] == [doc.id for doc in longest]
    assert reranker.seen == [6]
    for rank, doc in enumerate(found, 1):
        assert doc.metadata["title"] == by_id[doc.id].metadata["title"]
        assert isinstance(doc.metadata["score"], float)
        assert doc.metadata["hybridmem"]["rerank"]["rank"] == rank
        if forget:
            assert type(doc.metadata["relevance_score"]) is float
    assert await ranked.ainvoke(QUESTION) == found
    own = HybridRetriever(memory=retriever.memory, k=2, reranker=Async(forget=forget))
    assert await own.ainvoke(QUESTION) == found
    with pytest.raises(ValueError, match="reranker"):
        HybridRetriever(memory=retriever.memory, reranker="cohere")


def test_texts_that_are_equal_get_their_own_metadata_back() -> None:
    pages = [Document(id=str(n), page_content="This page is blank.", metadata={"page": n}) for n in range(3)]
    retriever = HybridRetriever.from_documents(pages, reranker=Longest())
    found = retriever.invoke(QUESTION)
    assert sorted(doc.metadata["page"] for doc in found) == [0, 1, 2]
    assert {str(doc.metadata["page"]) for doc in found if str(doc.metadata["page"]) == doc.id} == {"0", "1", "2"}


def test_fetch_k_bounds_the_candidates(retriever: HybridRetriever) -> None:
    reranker = Longest()
    HybridRetriever(memory=retriever.memory, k=2, fetch_k=3, reranker=reranker).invoke(QUESTION)
    HybridRetriever(memory=retriever.memory, k=2, fetch_k=3, reranker=reranker).invoke(QUESTION, k=5)
    assert reranker.seen == [3, 5]


def test_the_reranker_is_traced_below_the_retriever(retriever: HybridRetriever) -> None:
    given: list[Any] = []

    class Asking(Longest):
        def compress_documents(
            self, documents: Sequence[Document], query: str, callbacks: Any = None
        ) -> list[Document]:
            given.append(callbacks)
            return list(documents)

    class Handler(BaseCallbackHandler):
        runs: list[Any] = []  # noqa: RUF012

        def on_retriever_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            self.runs.append(run_id)

    handler = Handler()
    HybridRetriever(memory=retriever.memory, reranker=Asking()).invoke(QUESTION, {"callbacks": [handler]})
    assert given[0].parent_run_id == handler.runs[0]
    assert "rerank" in given[0].tags


async def test_mmr_chooses_among_more() -> None:
    same = [Document(id=f"s{n}", page_content=f"Helium is a light gas number {n}.") for n in range(4)]
    other = Document(id="other", page_content="Balloons are filled with helium, which is costly.")
    retriever = HybridRetriever.from_documents([*same, other], k=2)
    assert "other" not in {doc.id for doc in retriever.invoke("helium light gas")}
    diverse = HybridRetriever(memory=retriever.memory, k=2, search_type="mmr", lambda_mult=0.1)
    found = diverse.invoke("helium light gas")
    assert "other" in {doc.id for doc in found}
    assert await diverse.ainvoke("helium light gas") == found
    narrow = HybridRetriever(memory=retriever.memory, k=2, search_type="mmr", lambda_mult=0.1, fetch_k=2)
    assert "other" not in {doc.id for doc in narrow.invoke("helium light gas")}


async def test_parents_are_returned_for_their_parts() -> None:
    store: InMemoryStore = InMemoryStore()
    parents = {f"p{n}": Document(page_content=f"Whole document {n}.", metadata={"source": n}) for n in range(5)}
    store.mset(list(parents.items()))
    parts = [
        Document(id=f"{n}-{part}", page_content=f"Helium fact {part} of document {n}.", metadata={"doc_id": f"p{n}"})
        for n in range(5)
        for part in range(9)
    ]
    orphans = [
        Document(id="orphan", page_content="Helium alone."),
        Document(id="lost", page_content="Helium lost.", metadata={"doc_id": "gone"}),
    ]
    retriever = HybridRetriever.from_documents([*parts, *orphans], k=5, parent_store=store)
    found = retriever.invoke("Helium fact of a document", k=5)
    assert len(found) == 5
    assert len({doc.id for doc in found}) == 5
    assert await retriever.ainvoke("Helium fact of a document", k=5) == found
    for doc in found:
        if doc.id in parents:
            assert doc.page_content == parents[doc.id].page_content
            assert doc.metadata["source"] == parents[doc.id].metadata["source"]
            assert doc.metadata["hybridmem"]["child"].startswith(doc.id[1:])
            assert isinstance(doc.metadata["score"], float)
    everything = {doc.id for doc in retriever.invoke("Helium", k=50)}
    assert everything == {*parents, "orphan", "lost"}
    assert all(parent.metadata == {"source": n} for n, parent in enumerate(parents.values()))


def test_in_langchains_own_composites(retriever: HybridRetriever) -> None:
    classic = pytest.importorskip("langchain_classic.retrievers")
    ensemble = classic.EnsembleRetriever(retrievers=[retriever, retriever], weights=[0.5, 0.5], id_key=None)
    assert [doc.id for doc in ensemble.invoke(QUESTION)] == [doc.id for doc in retriever.invoke(QUESTION)]
    compressing = classic.ContextualCompressionRetriever(
        base_compressor=Longest(forget=False), base_retriever=retriever
    )
    assert len(compressing.invoke(QUESTION)) == 6


class Best(Longest):
    """Keeps the first ones only, as `top_n` does."""

    most: int

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        return super().compress_documents(documents, query, callbacks)[: self.most]


async def test_a_reranker_that_drops_is_not_given_more() -> None:
    store: InMemoryStore = InMemoryStore()
    store.mset([(f"p{n}", Document(page_content=f"Whole document {n}.")) for n in range(4)])
    parts = [
        Document(id=f"c{n:02}", page_content=f"Ada Lovelace part {n:02}.", metadata={"doc_id": f"p{n // 10}"})
        for n in range(40)
    ]
    best, every = Best(most=2, forget=False), Best(most=99, forget=False)
    retriever = HybridRetriever.from_documents(parts, k=4, fetch_k=4, parent_store=store, reranker=best)
    assert len(retriever.invoke(QUESTION)) <= 2
    assert len(await retriever.ainvoke(QUESTION)) <= 2
    assert best.seen == [4, 4]
    retriever.reranker = every
    assert len(retriever.invoke(QUESTION)) == len(await retriever.ainvoke(QUESTION)) == 4
    assert every.seen[:2] == [4, 8]
