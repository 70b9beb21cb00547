"""Vector databases under a memory: Qdrant (local mode) by LangChain and by LlamaIndex, Milvus Lite by LlamaIndex."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.engines.pushing import Compared, Joined, pushed
from hybridmem_plugins.engines.vectors import ExternalVectors
from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.memory.caches import Batch
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.samples import load_corpus
from hybridmem_plugins.testing import MemorySuite, VectorIndexSuite

sys.path.insert(0, str(Path(__file__).parent.parent / "retrieval"))
import tenants

EMBEDDER = StaticEmbedder()
DIMENSION = 256


def qdrant_by_langchain(folder: Path, dimension: int = DIMENSION) -> Any:
    pytest.importorskip("langchain_qdrant", reason="langchain-qdrant is not installed")
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    from hybridmem_plugins.langchain import GivenVectors, as_vector_engine

    client = QdrantClient(path=str(folder / "qdrant"))
    if not client.collection_exists("memory"):
        size = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        client.create_collection("memory", vectors_config=size)
    return as_vector_engine(QdrantVectorStore(client, "memory", embedding=GivenVectors(dimension)))


def qdrant_by_llama_index(folder: Path, dimension: int = DIMENSION) -> Any:
    pytest.importorskip("llama_index.vector_stores.qdrant", reason="llama-index-vector-stores-qdrant is not installed")
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    from hybridmem_plugins.llama_index import as_vector_engine

    return as_vector_engine(QdrantVectorStore("memory", client=QdrantClient(path=str(folder / "qdrant"))))


def milvus_by_llama_index(folder: Path, dimension: int = DIMENSION) -> Any:
    pytest.importorskip("llama_index.vector_stores.milvus", reason="llama-index-vector-stores-milvus is not installed")
    pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")
    from llama_index.vector_stores.milvus import MilvusVectorStore

    from hybridmem_plugins.llama_index import as_vector_engine

    store = MilvusVectorStore(
        uri=str(folder / "milvus.db"), collection_name="memory", dim=dimension, similarity_metric="COSINE"
    )
    return as_vector_engine(store)


MAKERS = [qdrant_by_langchain, qdrant_by_llama_index, milvus_by_llama_index]


def let_go(engine: Any) -> None:
    """Close a local database, so that it can be opened again."""
    store = engine._store
    for name in ("_client", "client", "_milvusclient"):
        client = getattr(store, name, None)
        if hasattr(client, "close"):
            client.close()


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: Any, tmp_path: Path) -> Iterator[Any]:
    engines: list[Any] = []

    def made(name: str = "engine", dimension: int = DIMENSION) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        engines.append(request.param(tmp_path / name, dimension))
        return engines[-1]

    yield made
    for engine in engines:
        let_go(engine)


class TestVectorEngine(MemorySuite):
    @pytest.fixture(autouse=True)
    def _made(self, make: Any, tmp_path: Path) -> None:
        self.make_engine, self.folder, self.engine = make, tmp_path / "memory", None

    def make(self) -> HybridMemory:
        self.engine = self.make_engine() if self.engine is None else self.engine
        return HybridMemory(EMBEDDER, self.folder, vectors=self.engine)

    def reopen(self, memory: HybridMemory) -> HybridMemory:
        memory.close()
        return self.make()


class Alone:
    """The tier over a database, with what a journal would know of it."""

    def __init__(self, engine: Any, dimension: int) -> None:
        self.kept: dict[int, bytes] = {}
        self.tier = ExternalVectors(
            engine, "0" * 32, dimension, lambda rows: self.kept, lambda: np.array(sorted(self.kept), dtype=np.int64)
        )
        self.search, self.similarity, self.vectors = self.tier.search, self.tier.similarity, self.tier.vectors

    def __len__(self) -> int:
        return len(self.tier)

    def add(self, rows: Any, vectors: Any) -> None:
        self.tier.send(rows, Batch([Passage("text", id=str(row)) for row in rows]), vectors)
        self.kept |= {row: np.asarray(v, dtype="<f4").tobytes() for row, v in zip(rows, vectors, strict=True)}

    def remove(self, rows: Any) -> None:
        self.kept = {row: vector for row, vector in self.kept.items() if row not in rows}
        self.tier.forget(rows)


class TestVectorIndex(VectorIndexSuite):
    @pytest.fixture(autouse=True)
    def _made(self, make: Any) -> None:
        self.make_engine = make

    def make(self, dimension: int) -> Alone:
        return Alone(self.make_engine(dimension=dimension), dimension)


class Recording:
    """Passes calls on, remembers conditions, and fails when told to."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.name = engine, engine.name
        self.pushed: list[Any] = []
        self.failing: set[str] = set()

    def upsert(self, ids: Any, vectors: Any, metadata: Any) -> None:
        if "half" in self.failing:  # as a database that dies in the middle of a write
            self.engine.upsert(ids[: len(ids) // 2], vectors[: len(ids) // 2], metadata[: len(ids) // 2])
        self._fail("half", "upsert")
        self.engine.upsert(ids, vectors, metadata)

    def delete(self, ids: Any) -> None:
        self._fail("delete")
        self.engine.delete(ids)

    def search(self, vector: Any, k: int, push: Any) -> Any:
        self._fail("search")
        self.pushed.append(push)
        return self.engine.search(vector, k, push)

    def _fail(self, *names: str) -> None:
        if self.failing & set(names):
            msg = "cannot reach https://ann:hunter2-Zebra@qdrant.example?api_key=hunter2-Zebra"
            raise ConnectionError(msg)


def everything(engine: Any) -> set[str]:
    return set(engine.search(np.ones(DIMENSION, dtype=np.float32) / 16, 1000, None))


def test_filters_are_pushed_down_and_hold(make: Any, tmp_path: Path) -> None:
    engine = Recording(make())
    many = [Passage(f"Note number {n} on memory.", id=str(n), metadata={"n": n, "t": "abc"[n % 3]}) for n in range(90)]
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory, HybridMemory(EMBEDDER) as embedded:
        memory.add(many)
        embedded.add(many)
        for query in (
            {"t": "a"}, {"n": {"$gte": 10, "$lt": 20}}, {"n": 17}, {"n": 17.0}, {"t": {"$in": ["a", "c"]}},
            {"$or": [{"t": "b", "n": {"$lt": 5}}, {"n": {"$gt": 88}}]}, {"t": {"$ne": "a"}}, {"t": {"$exists": True}},
            {"$not": {"n": {"$lt": 80}}}, {"t": "nobody"},
        ):  # fmt: skip
            engine.pushed.clear()
            found, expected = (one.search("memory note", 12, query, route="vector") for one in (memory, embedded))
            assert [h.passage.id for h in found] == [h.passage.id for h in expected], query
            if expected:
                assert engine.pushed
                assert all(push == pushed(query) for push in engine.pushed), query
        assert memory.search("memory", 3, lambda metadata: metadata["n"] == 5)[0].passage.id == "5"


def test_what_a_database_is_asked_holds_for_all_that_is_allowed() -> None:
    assert pushed({"x": "a", "y": {"$ne": 1}}) == Compared("x", "=", "a")
    assert pushed({"$or": [{"x": "a"}, {"y": {"$ne": 1}}]}) is None
    assert pushed({"$not": {"x": "a"}}) is None
    assert pushed({"x": True}) is None
    assert pushed({"x": 2**60}) is None
    assert pushed({"x.y": "a"}) is None
    assert pushed({"x": 1}) == Joined("and", (Compared("x", ">=", 1), Compared("x", "<=", 1)))
    assert pushed(lambda metadata: True) is None


def test_a_database_that_fails_leaves_nothing_half(make: Any, tmp_path: Path, caplog: Any) -> None:
    corpus = load_corpus()
    engine = Recording(make())
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory:
        memory.add(corpus[:10])
        for way in ("upsert", "half"):
            engine.failing = {way}
            with pytest.raises(EngineError, match="cannot reach") as caught:
                memory.add(corpus[8:20])
            assert "hunter2" not in str(caught.value) + repr(caught.value) + caplog.text
            assert len(memory) == 10
            engine.failing = set()
            assert {h.passage.id for h in memory.search("memory", 30, route="vector")} == {p.id for p in corpus[:10]}
        engine.failing = {"search"}
        with pytest.raises(EngineError, match="cannot reach"):
            memory.search("memory")
        engine.failing = set()
        memory.add(corpus[8:20])
        assert len(everything(engine.engine)) == 20
        engine.failing = {"delete"}
        with pytest.raises(EngineError, match="at the next change or opening"):
            memory.delete([str(p.id) for p in corpus[:5]])
        engine.failing = set()
        assert len(memory) == 15
        assert len(memory.search("memory", 30)) == 15
        assert len(everything(engine.engine)) == 20
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory:
        assert len(everything(engine.engine)) == 15
        assert memory.store.check().problems == []


def test_a_memory_that_was_there_first_fills_the_database(make: Any, tmp_path: Path) -> None:
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:
        memory.add(load_corpus())
        before = memory.search("memory cell")
    engine = make()
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory:
        assert len(everything(engine)) == 45
        after = memory.search("memory cell")
        assert [h.passage for h in after] == [h.passage for h in before]
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:  # and back to the embedded index
        assert [h.passage for h in memory.search("memory cell")] == [h.passage for h in before]


def test_what_was_missed_is_made_up_for_and_no_more(make: Any, tmp_path: Path) -> None:
    corpus = load_corpus()
    engine = Recording(make())
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory:
        memory.add(corpus[:30])
        memory.compact()
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:  # without the database
        memory.delete([str(p.id) for p in corpus[:4]])
        memory.add(corpus[30:])
        before = [hit.passage for hit in memory.search("memory cell", route="vector")]
    sent: list[Any] = []
    engine.upsert = lambda *given: sent.append(given[0]) or engine.engine.upsert(*given)  # type: ignore[method-assign]
    for _ in range(2):
        with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory:
            assert [hit.passage for hit in memory.search("memory cell", route="vector")] == before
            assert len(everything(engine.engine)) == 41
        assert [len(ids) for ids in sent] == [15]  # once, what was new


def test_no_search_shows_anything_of_another_tenant(make: Any, tmp_path: Path) -> None:
    def opened(extractor: Any) -> HybridMemory:
        return HybridMemory(EMBEDDER, tmp_path / f"m{random.random()}", extractor=extractor, vectors=make())

    assert tenants.check(searches=60, seed=4, graphs=1, size=60, make=opened) == []


def test_a_store_that_embeds_by_itself_is_refused() -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore

    from hybridmem_plugins.langchain import as_vector_engine

    with pytest.raises(TypeError, match="GivenVectors"):
        as_vector_engine(InMemoryVectorStore(DeterministicFakeEmbedding(size=8)))


def test_any_langchain_store_works_without_a_filter_form(tmp_path: Path) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    from hybridmem_plugins.langchain import GivenVectors, as_vector_engine

    engine = as_vector_engine(InMemoryVectorStore(GivenVectors(DIMENSION)))
    with HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine) as memory, HybridMemory(EMBEDDER) as embedded:
        passages = [Passage(p.text, p.title, p.id, {"t": "ab"[i % 2]}) for i, p in enumerate(load_corpus())]
        memory.add(passages)
        embedded.add(passages)
        for query in (None, {"t": "a"}):
            found, expected = (one.search("memory cell", 8, query) for one in (memory, embedded))
            assert [h.passage.id for h in found] == [h.passage.id for h in expected]
