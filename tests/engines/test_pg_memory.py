"""A memory in PostgreSQL: tenants, histories, many clients at once, and whatever is thrown at it."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.engines import open_engine
from hybridmem_plugins.errors import EmbedderMismatchError, MemoryFormatError
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.samples import load_corpus

for room in ("retrieval", "memory"):
    sys.path.insert(0, str(Path(__file__).parent.parent / room))
from memory_helpers import FakeEmbedder  # noqa: E402
from test_fuzz import ANY, JSON  # noqa: E402

import tenants  # noqa: E402

EMBEDDER = StaticEmbedder()


def test_no_search_shows_anything_of_another_tenant(address: str, monkeypatch: Any) -> None:
    """As the embedded memory's test; PostgreSQL takes no functions as filters."""
    plain = tenants.filters

    def filters(choice: random.Random, tenant: str) -> Any:
        while callable(chosen := plain(choice, tenant)):
            pass
        return chosen

    monkeypatch.setattr(tenants, "filters", filters)

    def make(extractor: Any) -> HybridMemory:
        return HybridMemory(EMBEDDER, address, extractor=extractor)

    assert tenants.check(searches=150, seed=2, graphs=1, size=120, make=make) == []


def test_any_history_ends_in_the_graph_of_the_embedded_memory(address: str) -> None:
    """Adding, replacing and deleting in batches of all sizes; tables, graph, words and answers agree at the end."""
    choice = random.Random(3)
    with (
        HybridMemory(FakeEmbedder(8), address, extractor=tenants.Stating()) as memory,
        HybridMemory(FakeEmbedder(8), extractor=tenants.Stating()) as embedded,
    ):
        for _ in range(25):
            if choice.random() < 0.3:
                gone = [f"{tenant}/{choice.randrange(60)}" for tenant in tenants.TENANTS for _ in range(4)]
                assert memory.delete(gone) == embedded.delete(gone)
            drawn = [tenants.passage(choice, choice.randrange(60)) for _ in range(choice.choice([1, 9]))]
            batch = {passage.id: passage for passage in drawn}
            for one in (memory, embedded):
                one.add(list(batch.values()))
        assert memory.store.check().problems == []
        assert set(memory.graph.edges(keys=True)) == set(embedded.graph.edges(keys=True))
        assert said_by(memory) == said_by(embedded)
        for _ in range(20):
            asked = tenants.question(choice)
            assert scored(memory, asked) == scored(embedded, asked)


def scored(memory: HybridMemory, asked: str) -> list[tuple[str | None, float]]:
    return [(hit.passage.id, round(hit.score, 4)) for hit in memory.search(asked, 5)]


def said_by(memory: HybridMemory) -> dict[str, list[str]]:
    with memory.store.reading() as view:
        rows = view.matching(None)
        return {
            i: sorted(names) for i, names in zip(view.ids(rows), view.graph.mentions_of(rows).values(), strict=True)
        }


def test_long_names_and_words_are_found(address: str) -> None:
    name = " ".join(f"Longword{n}" for n in range(200))
    word = "x" * 4000
    with HybridMemory(FakeEmbedder(8), address) as memory:
        memory.add([Passage(f"It met {word} there.", name, "1"), Passage(f"He likes {word}.", "Short", "2")])
        assert {hit.passage.id for hit in memory.search(word, 2)} == {"1", "2"}
        assert memory.store.check().problems == []
        assert memory.delete(["1", "2"]) == ["1", "2"]
        assert memory.store.check().problems == []


def test_clients_see_whole_changes_only(address: str) -> None:
    """One client replaces all passages again and again; others never see two versions, nor one missing."""
    corpus = load_corpus()[:12]
    stop = threading.Event()
    problems: list[Any] = []

    def read() -> None:
        with HybridMemory(EMBEDDER, address) as reader:
            while not stop.is_set():
                hits = reader.search("memory cell transistor", 20)
                versions = {hit.passage.metadata["version"] for hit in hits}
                if len(versions) != 1 or len(hits) != len(corpus):
                    problems.append((versions, len(hits)))

    def version(number: int) -> list[Passage]:
        return [Passage(p.text, p.title, p.id, {"version": number}) for p in corpus]

    with HybridMemory(EMBEDDER, address) as memory:
        memory.add(version(0))
        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        for number in range(1, 8):
            memory.add(version(number))
        stop.set()
        for thread in readers:
            thread.join()
        assert problems == []


def test_many_writers_at_once_lose_nothing(address: str) -> None:
    corpus = load_corpus()[:24]

    def write(part: list[Passage]) -> None:
        with HybridMemory(EMBEDDER, address) as memory:
            for passage in part:
                memory.add([passage])

    # All of them find no tables yet, too.
    writers = [threading.Thread(target=write, args=(corpus[n::4],)) for n in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    with HybridMemory(EMBEDDER, address) as memory, HybridMemory(EMBEDDER) as embedded:
        embedded.add(corpus)
        assert len(memory) == len(corpus)
        assert memory.store.check().problems == []
        assert set(memory.graph.edges(keys=True)) == set(embedded.graph.edges(keys=True))


def test_a_graph_is_read_whole_while_others_forget(address: str, monkeypatch: Any) -> None:
    with HybridMemory(EMBEDDER, address) as memory, HybridMemory(EMBEDDER, address) as other:
        memory.add([Passage("Oslo lies in Norway.", id="a"), Passage("Bergen lies in Norway.", id="b")])
        read, expected = memory.store.records, set(memory.graph.edges(keys=True))

        def forgetting() -> Iterator[Any]:
            for batch in read():
                other.delete(["a"])
                yield batch

        monkeypatch.setattr(memory.store, "records", forgetting)
        assert set(memory.graph.edges(keys=True)) == expected


def test_a_question_vector_of_another_length_is_refused_as_elsewhere(address: str, monkeypatch: Any) -> None:
    embedder = FakeEmbedder()
    with HybridMemory(embedder, address) as memory, HybridMemory(embedder) as embedded:
        for one in (memory, embedded):
            one.add([Passage("Oslo lies in Norway.", id="a")])
        monkeypatch.setattr(embedder, "embed_query", lambda text: [1.0] * 5)
        for one in (memory, embedded):
            with pytest.raises(ValueError, match="expected a vector of length 16"):
                one.search("Where?")


def test_any_number_of_passages_may_be_asked_for(address: str) -> None:
    passages = [Passage(f"Page {i} is about tea.", id=str(i), metadata={"even": i % 2 == 0}) for i in range(20)]
    with HybridMemory(EMBEDDER, address) as memory:
        memory.add(passages)
        assert len(memory.search("tea", k=10**30)) == 20
        assert len(memory.search("tea", k=10**30, filter={"even": True})) == 10


def test_a_question_that_has_its_answer_survives_closing(address: str) -> None:
    memory = HybridMemory(EMBEDDER, address)
    memory.add([Passage("Oslo lies in Norway.", id="a")])
    with memory.store.reading() as view:
        found = view.ids(view.matching(None))
        memory.close()  # as another thread may
    assert found == ["a"]
    with pytest.raises(ValueError, match="closed"):
        len(memory)


async def test_async_calls_and_the_frameworks_work(address: str) -> None:
    from langchain_core.documents import Document

    from hybridmem_plugins.langchain import HybridRetriever

    documents = [Document(p.text, metadata={"title": p.title, "tenant": "a"}, id=p.id) for p in load_corpus()]
    retriever = HybridRetriever.from_documents(documents, persist_directory=address, k=3)
    question = "Where was the inventor of the one-transistor DRAM cell born?"
    found = await retriever.ainvoke(question, filter={"tenant": "a"})
    assert found[0].id in {document.id for document in documents}
    assert retriever.invoke(question) == found
    assert retriever.invoke(question, filter={"tenant": "b"}) == []
    retriever.close()
    again = HybridRetriever.from_persist_directory(address, k=3)
    assert again.invoke(question) == found
    again.close()


def test_another_embedder_or_format_is_refused(address: str, query: Any) -> None:
    with HybridMemory(FakeEmbedder(8), address) as memory:
        memory.add([Passage("text", id="1")])
    with pytest.raises(EmbedderMismatchError, match="made with the embedder 'fake'"):
        HybridMemory(EMBEDDER, address)
    with open_engine(address) as store, pytest.raises(EmbedderMismatchError, match="8 dimensions"):
        store.add([Passage("other", id="2")], [[1.0, 2.0]])
    query(f"UPDATE {address.rpartition('=')[2]}.state SET format = 99")
    with pytest.raises(MemoryFormatError, match="format 99"):
        HybridMemory(FakeEmbedder(8), address)


def test_compacting_keeps_the_answers(address: str) -> None:
    corpus = load_corpus()
    with HybridMemory(EMBEDDER, address) as memory:
        memory.add(corpus)
        memory.delete([str(p.id) for p in corpus[:20]])
        before = memory.search("memory cell")
        assert memory.compact()
        assert memory.search("memory cell") == before
        assert memory.store.check().problems == []


@pytest.fixture(scope="module")
def fuzzed(postgres: str) -> Iterator[HybridMemory]:
    import psycopg

    with HybridMemory(FakeEmbedder(8), f"{postgres}{'&' if '?' in postgres else '?'}schema=test_fuzz") as memory:
        memory.add([Passage("The witness saw Ada Lovelace in London.", "Witness", "witness", {"kind": "witness"})])
        yield memory
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP SCHEMA test_fuzz CASCADE")


@given(text=ANY, title=st.one_of(st.none(), ANY), identity=ANY, metadata=st.dictionaries(ANY, JSON, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_passage_is_found_again_or_refused(
    fuzzed: HybridMemory, text: str, title: str | None, identity: str, metadata: dict[str, Any]
) -> None:
    passage = Passage(text, title, identity if identity != "witness" else "w", metadata)
    try:
        assert fuzzed.add([passage]) == [passage.id]
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 20
        assert len(fuzzed) == 1
        return
    try:
        (stored,) = fuzzed.get([str(passage.id)])
        assert (stored.text, stored.title, stored.id) == (text, title, passage.id)
        assert json.dumps(stored.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)
        if words(text):
            assert passage.id in [hit.passage.id for hit in fuzzed.search(" ".join(words(text)), k=2)]
        fuzzed.facts("Ada Lovelace")
    finally:
        assert fuzzed.delete([str(passage.id)]) == [passage.id]
    assert fuzzed.store.check().problems == []


@given(question=ANY, filter=st.one_of(st.none(), st.dictionaries(ANY, JSON, max_size=2)), k=st.integers(-1, 3))
@settings(max_examples=60, deadline=None)
def test_any_question_is_answered_or_refused(fuzzed: HybridMemory, question: str, filter: Any, k: int) -> None:  # noqa: A002
    for ask in (fuzzed.search, fuzzed.facts):
        try:
            answer = ask(question, k, filter)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 8
        else:
            assert len(answer) <= k
    assert fuzzed.delete([question]) == []


def test_an_approximate_index_finds_as_many_as_are_allowed(address: str, query: Any, monkeypatch: Any) -> None:
    """From some number of passages on, pgvector's HNSW index is built in the transaction that reaches it."""
    from hybridmem_plugins.engines.postgres import writing

    monkeypatch.setattr(writing, "INDEX_FROM", 300)
    choice = random.Random(5)
    many = [
        Passage(f"{choice.choice('abcdefgh')} note {n} {choice.random()}", id=str(n), metadata={"n": n, "t": n % 50})
        for n in range(600)
    ]
    with HybridMemory(FakeEmbedder(16), address) as memory, HybridMemory(FakeEmbedder(16)) as embedded:
        for start in range(0, 600, 200):
            memory.add(many[start : start + 200])
        embedded.add(many)
        schema = address.rpartition("=")[2]
        indexes = query("SELECT indexname FROM pg_indexes WHERE schemaname = %s AND tablename = 'vectors'", schema)
        assert ("vectors_nearest",) in indexes
        shares = []
        for allowed in (None, {"n": {"$lt": 300}}, {"t": 7}, {"t": {"$in": [1, 2]}, "n": {"$gt": 580}}, {"t": 99}):
            for asked in ("a note", "h note 17", "note 0.5"):
                found, expected = (one.search(asked, 20, allowed, "vector") for one in (memory, embedded))
                assert len(found) == len(expected), allowed
                same = {h.passage.id for h in found} & {h.passage.id for h in expected}
                shares.append(len(same) / max(1, len(expected)) if expected else 1.0)
        assert min(shares) > 0.8
        memory.delete([str(n) for n in range(100, 600)])
        assert len(memory.search("note", 200)) == 100
        assert memory.store.check().problems == []


def test_postgresql_knows_how_much_there_is_once_a_memory_has_grown(address: str, query: Any) -> None:
    """Without statistics it plans questions of a freshly filled memory badly until it looks by itself."""
    schema = address.rpartition("schema=")[2]
    sql = f"SELECT relname, reltuples FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
    with HybridMemory(FakeEmbedder(8), address) as memory:
        memory.add([Passage(f"Note {n}.", id=str(n)) for n in range(250)])
        known = dict(query(sql))
        assert known["passages"] == known["vectors"] == 250
        assert known["postings"] == 500
        memory.add([Passage(f"Note {n}.", id=str(n)) for n in range(250, 300)])
        assert dict(query(sql))["passages"] == 250  # not after every change
        memory.add([Passage(f"Note {n}.", id=str(n)) for n in range(300, 600)])
        assert dict(query(sql))["passages"] == 600


def test_a_memory_made_before_passages_had_lengths_gets_them(address: str, query: Any) -> None:
    passages = [replace(p, metadata={"tenant": "ab"[n % 2]}) for n, p in enumerate(load_corpus())]
    question, allowed = "Where was the inventor of the one-transistor DRAM cell born?", {"tenant": "a"}
    with HybridMemory(path=address) as memory:
        memory.add(passages)
        before = memory.search(question, filter=allowed)
    schema = address.rpartition("schema=")[2]
    query(f"ALTER TABLE {schema}.passages DROP COLUMN length")
    with HybridMemory(path=address) as memory:
        assert memory.search(question, filter=allowed) == before
        memory.add([Passage("Ada wrote it.", id="new", metadata={"tenant": "a"})])
    [(least, most)] = query(f"SELECT min(length), max(length) FROM {schema}.passages")
    assert least >= 1
    assert most > 50
