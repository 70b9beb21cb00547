from __future__ import annotations

import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_helpers import FakeEmbedder, FakeGraph, OpenStore

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.errors import EmbedderMismatchError
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.lexical import LexicalIndex
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.passage import Passage


def contents(store: MemoryStore) -> dict[str, Passage]:
    with store.reading():
        rows = sorted(store._caches.id_of)
        return {str(passage.id): passage for passage in store.passages(rows)}


def assert_whole(store: MemoryStore) -> None:
    report = store.check()
    assert report.ok, report.problems
    with store.reading():
        rows = set(store._caches.id_of)
        assert set(store.graph.known) == rows  # type: ignore[attr-defined]
        for row in rows:
            passage, _, tokens = store.graph.known[row]  # type: ignore[attr-defined]
            assert tokens == words(f"{passage.title}\n{passage.text}" if passage.title else passage.text)
            assert store.lexical.words([row]) == [tokens]


@pytest.fixture(params=["memory", "folder"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "a memory ' ; --"


def test_add_replace_delete_in_every_tier(open_store: OpenStore, where: Path | None) -> None:
    store = open_store(where)
    ids = store.add(
        [
            Passage("Hello World", title="Greeting", id="a", metadata={"n": 1, "deep": {"x": [1, None]}}),
            Passage("No Title here"),
        ]
    )
    assert ids[0] == "a"
    assert len(ids[1]) == 32
    assert len(store) == 2
    assert contents(store)["a"].metadata == {"n": 1, "deep": {"x": [1, None]}}
    store.add([Passage("Hello Moon", title="Greeting", id="a", metadata={"n": 2})])
    assert len(store) == 2
    with store.reading():
        assert store.lexical.search(["world"], 5)[0].tolist() == []
        found = store.lexical.search(["moon"], 5)[0]
        assert store.ids(found) == ["a"]
        assert store.texts(found) == ["Hello Moon"]
        assert store.rows_of(["a", "zz"]) == [found[0], None]
        allowed = store.allowed({"n": {"$gt": 1}})
        assert store.vectors is not None
        assert store.vectors.search(store.embedder.embed_query("world"), 5, allowed)[0].tolist() == found.tolist()
        assert np.array_equal(store.allowed(lambda metadata: metadata.get("n", 0) > 1), allowed)
        assert store.allowed({}) is None
        assert store.allowed(None) is None
    assert_whole(store)
    assert store.delete(["zz", "a", "a", "\ud800"]) == ["a"]
    assert store.delete(["a"]) == []
    assert len(store) == 1
    assert_whole(store)
    assert store.delete_where({"n": {"$exists": False}}) == [ids[1]]
    assert len(store) == 0
    assert_whole(store)


def test_an_unchanged_passage_is_no_change(open_store: OpenStore, where: Path | None) -> None:
    store = open_store(where)
    passage = Passage("Text", title="T", id="a", metadata={"x": 1, "y": [2]})
    store.add([passage])
    version, calls = store.version, store.embedder.calls  # type: ignore[union-attr]
    assert store.add([Passage("Text", title="T", id="a", metadata={"y": [2], "x": 1})]) == ["a"]
    assert (store.version, store.embedder.calls) == (version, calls)  # type: ignore[union-attr]
    store.add([Passage("Text", title="T", id="a", metadata={"x": 1})])
    assert store.version == version + 1


def test_reopening_gives_the_same(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "m")
    store.add([Passage(f"Text number {i} about Thing{i % 7}", title=f"T{i}", id=f"p{i}") for i in range(200)])
    store.delete(["p3", "p4"])
    before = contents(store)
    question = store.embedder.embed_query("text about thing3")  # type: ignore[union-attr]
    with store.reading():
        expected = store.vectors.search(question, 9), store.lexical.search(["thing3"], 9)  # type: ignore[union-attr]
    store.close()
    store.close()
    for call in (lambda: store.add([Passage("x")]), lambda: store.delete(["p1"]), lambda: store.check(), store.compact):
        with pytest.raises(ValueError, match="closed"):
            call()
    again = open_store(tmp_path / "m")
    assert contents(again) == before
    with again.reading():
        found = again.vectors.search(question, 9), again.lexical.search(["thing3"], 9)  # type: ignore[union-attr]
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)
    assert_whole(again)
    assert again.version == store.version


def test_given_vectors(open_store: OpenStore, where: Path | None) -> None:
    store = open_store(where, embedder=None)
    with pytest.raises(ValueError, match="no embedder"):
        store.add([Passage("a")])
    store.add([Passage("a", id="a"), Passage("b", id="b")], vectors=[[1, 0], [0, 2]])
    with store.reading():
        assert store.ids(store.vectors.search([0, 1], 1)[0]) == ["b"]  # type: ignore[union-attr]
    version = store.version
    store.add([Passage("a", id="a")], vectors=[[1, 0]])
    assert store.version == version
    store.add([Passage("a", id="a")], vectors=[[-1, 0]])
    assert store.version == version + 1
    with pytest.raises(EmbedderMismatchError, match="2 dimensions, not 3"):
        store.add([Passage("c")], vectors=[[1, 2, 3]])
    with pytest.raises(ValueError, match="shape"):
        store.add([Passage("c")], vectors=[[1, 2], [3, 4]])
    assert len(store) == 2
    assert_whole(store)


class Strange:
    pass


LONE = "a\ud800b"
BAD: list[tuple[Any, type[Exception], str]] = [
    ([Passage("")], ValueError, "passage 0.*empty"),
    ([Passage("ok"), Passage(" \n\t\u2003")], ValueError, "passage 1.*empty"),
    ([Passage(None)], TypeError, "text is a NoneType"),  # type: ignore[arg-type]
    ([Passage(b"x")], TypeError, "text is a bytes"),  # type: ignore[arg-type]
    ([Passage("x", title=3)], TypeError, "title is a int"),  # type: ignore[arg-type]
    ([Passage("x", id=3)], TypeError, "id is a int"),  # type: ignore[arg-type]
    ([Passage("x", id="")], ValueError, "id is empty"),
    ([Passage("x", id="a"), Passage("y", id="a")], ValueError, "0 and 1 have the same id 'a'"),
    ([Passage("x", id="a"), Passage("x", id="a")], ValueError, "same id"),
    ([Passage("x", metadata=[1])], TypeError, "metadata is a list"),  # type: ignore[arg-type]
    ([Passage("x", metadata={1: 2})], TypeError, "key 1"),  # type: ignore[dict-item]
    (
        [Passage("x", id="q", metadata={"a": {"b": [Strange()]}})],
        TypeError,
        r"'q'.*metadata\['a'\]\['b'\]\[\] is a Strange",
    ),
    ([Passage("x", metadata={"a": (1, 2)})], TypeError, "tuple"),
    ([Passage("x", metadata={"a": {1}})], TypeError, "set"),
    ([Passage("x", metadata={"a": float("nan")})], ValueError, "nan"),
    ([Passage("x", metadata={"a": [float("-inf")]})], ValueError, "inf"),
    ([Passage("x", metadata={"a": 10**5000})], ValueError, "cannot be stored"),
    ([Passage(LONE)], ValueError, "text has a lone surrogate"),
    ([Passage("x", title=LONE)], ValueError, "title has a lone surrogate"),
    ([Passage("x", id=LONE)], ValueError, "id has a lone surrogate"),
    ([Passage("x", metadata={"a": [LONE]})], ValueError, "lone surrogate"),
    ([Passage("x", metadata={LONE: 1})], ValueError, "lone surrogate"),
    (["text"], TypeError, "passage 0 is a str, not a Passage"),
    ([{"text": "x"}], TypeError, "passage 0 is a dict"),
    ("text", TypeError, "must be a list"),
    (Passage("x"), TypeError, "must be a list"),
]


@pytest.mark.parametrize(("passages", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_passages_are_refused_and_nothing_is_stored(
    open_store: OpenStore, passages: Any, error: type[Exception], message: str
) -> None:
    store = open_store()
    store.add([Passage("kept", id="kept")])
    good = [Passage("fine", id="fine")]
    with pytest.raises(error, match=message):
        store.add(passages)
    if isinstance(passages, list):
        with pytest.raises(error):
            store.add(good + passages)
    assert set(contents(store)) == {"kept"}


def test_metadata_that_contains_itself(open_store: OpenStore) -> None:
    metadata: dict[str, Any] = {}
    metadata["self"] = metadata
    with pytest.raises(ValueError, match="contains itself"):
        open_store().add([Passage("x", metadata=metadata)])


def test_equal_passages_without_ids_are_one(open_store: OpenStore) -> None:
    store = open_store()
    first, second, other = store.add([Passage("same"), Passage("same"), Passage("same", title="titled")])
    assert first == second != other
    assert len(store) == 2


def test_later_changes_of_the_callers_metadata_do_not_reach_the_memory(open_store: OpenStore) -> None:
    store, metadata = open_store(), {"tags": ["a"]}
    store.add([Passage("x", id="x", metadata=metadata)])
    metadata["tags"].append("b")
    with store.reading():
        assert store.allowed({"tags": {"$contains": "b"}}).tolist() == [False, False]  # type: ignore[union-attr]
    contents(store)["x"].metadata["tags"].append("c")  # type: ignore[index]
    assert contents(store)["x"].metadata == {"tags": ["a"]}


class BrokenEmbedder(FakeEmbedder):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def embed_documents(self, texts: list[str]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer for _ in texts] if isinstance(self.answer, list) else self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([0.0, 0.0], ValueError, "vector 0 is zero"),
        ([float("nan"), 1.0], ValueError, "NaN"),
        (np.ones((1, 2)), ValueError, r"shape \(1, 2\) for 2 texts"),
        ([[1.0], [1.0, 2.0]], ValueError, "different lengths"),
        (ConnectionError("down"), ConnectionError, "down"),
    ],
)
def test_a_broken_embedder_stores_nothing(
    open_store: OpenStore, answer: Any, error: type[Exception], message: str
) -> None:
    store = open_store(embedder=BrokenEmbedder(answer))
    with pytest.raises(error, match=message):
        store.add([Passage("one"), Passage("two")])
    assert len(store) == 0


def test_another_embedder_is_refused(open_store: OpenStore, tmp_path: Path) -> None:
    open_store(tmp_path / "m").add([Passage("x")])
    renamed = open_store(tmp_path / "m", embedder=FakeEmbedder(name="the same under another name"))
    assert len(renamed) == 1
    with pytest.raises(EmbedderMismatchError, match=r"'fake' \(16 dimensions\), not with 'other' \(8 dimensions\)"):
        open_store(tmp_path / "m", embedder=FakeEmbedder(8, name="other"))
    with pytest.raises(EmbedderMismatchError, match="seeded"):
        open_store(tmp_path / "m", embedder=FakeEmbedder(seed=1, name="seeded"))
    first, second = open_store(tmp_path / "n"), open_store(tmp_path / "n", embedder=FakeEmbedder(seed=1, name="seeded"))
    first.add([Passage("x")])
    with pytest.raises(EmbedderMismatchError):
        second.add([Passage("y")])
    assert len(first) == 1


def test_a_failing_tier_loses_nothing(open_store: OpenStore, where: Path | None) -> None:
    class FailingGraph(FakeGraph):
        fail = False

        def add(self, *arguments: Any) -> None:
            if self.fail:
                self.fail = False
                msg = "graph"
                raise MemoryError(msg)
            super().add(*arguments)

    graph = FailingGraph()
    store = open_store(where, graph=graph)
    store.add([Passage("One", id="a")])
    graph.fail = True
    with pytest.raises(MemoryError):
        store.add([Passage("Two", id="b")])
    assert set(contents(store)) == {"a", "b"}  # it was committed; the tiers are made anew
    assert_whole(store)
    graph.fail = True
    with pytest.raises(MemoryError):
        store.add([Passage("Three", id="c")])
    store.add([Passage("Four", id="d")])
    assert set(contents(store)) == {"a", "b", "c", "d"}
    assert_whole(store)


def test_a_thread_cannot_write_while_it_reads(open_store: OpenStore, where: Path | None) -> None:
    store = open_store(where)
    store.add([Passage("x", id="x")])
    with store.reading(), store.reading():
        for call in (lambda: store.add([Passage("y")]), lambda: store.delete(["x"]), store.compact, store.close):
            with pytest.raises(RuntimeError, match="while it reads"):
                call()
    with pytest.raises(RuntimeError, match="filter cannot use"):
        store.delete_where(lambda metadata: bool(store.passages([1])))
    with pytest.raises(ZeroDivisionError):
        store.delete_where(lambda metadata: bool(1 / 0))
    assert len(store) == 1
    store.add([Passage("y")])
    assert_whole(store)


@pytest.mark.parametrize(
    "query",
    [
        *({}, {"$and": []}, {"$or": []}, {"$and": [{}, {"$and": []}]}, {"$not": {"$or": []}}),
        *({"$or": [{"x": 1}, {}]}, {"$not": {"$and": [{"x": 1}, {"$or": []}]}}),
    ],
)
def test_a_filter_that_asks_for_nothing_deletes_nothing(open_store: OpenStore, query: dict[str, Any]) -> None:
    store = open_store()
    store.add([Passage("x", metadata={"x": 1}), Passage("y")])
    with pytest.raises(ValueError, match="empty filter"):
        store.delete_where(query)
    assert len(store) == 2
    assert len(store.delete_where({"$and": [{}, {"$or": [{"x": 1}, {"$or": []}]}]})) == 1


def test_deleting_by_a_filter_asks_the_index_and_sees_what_others_stored(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = open_store(tmp_path / "m"), open_store(tmp_path / "m")
    store.add([Passage("x", id="x", metadata={"of": "1"})])
    other.add([Passage("y", id="y", metadata={"of": "1"}), Passage("z", id="z", metadata={"of": "2"})])
    with monkeypatch.context() as patch:
        patch.setattr("hybridmem_plugins.memory.store.json", None)  # the metadata of all passages would be read with it
        assert store.delete_where({"of": "1"}) == ["x", "y"]
        assert store.delete_where({"of": "1"}) == []
    assert set(contents(other)) == set(contents(store)) == {"z"}
    assert_whole(store)


def test_forgotten_text_is_gone_from_every_byte(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = open_store(folder)
    store.add([Passage(f"Plain text {i} " * 20, id=f"p{i}") for i in range(300)])
    store.add([Passage("the Zanzibarian secret", title="Zanzibarian", id="zanzibarian", metadata={"z": "zanzibarian"})])
    store.add([Passage(f"more {i}", id=f"q{i}") for i in range(50)])
    store.close()
    store = open_store(folder)
    store.delete(["zanzibarian"])
    assert store.compact()
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"anzibarian" not in content, file
    assert_whole(store)
    store.close()
    assert all(b"anzibarian" not in file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert_whole(open_store(folder))


def test_forgotten_text_does_not_come_back_from_another_process(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store, other = open_store(folder), open_store(folder)
    store.add([Passage("the Zanzibarian secret", title="Zanzibarian", id="z"), Passage("Plain text", id="p")])
    contents(other)
    store.delete(["z"])
    contents(other)  # knows that it is gone, and has its words
    assert store.compact()
    other.add([Passage(f"more {i}", id=f"q{i}") for i in range(5)])
    other.close()
    assert all(b"anzibarian" not in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_indexes_are_saved_as_of_now(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store, other = open_store(folder), open_store(folder)
    other.add([Passage("the Zanzibarian secret", title="Zanzibarian", id="z"), Passage("Plain text", id="p")])
    store.delete(["z"])
    assert store.compact()
    other.close()  # has looked at nothing since
    assert all(b"anzibarian" not in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_compacting_says_where_the_indexes_could_not_be_written(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path / "m")
    store.add([Passage("secret", id="s")])
    store.delete(["s"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LexicalIndex, "save", full)
    assert not store.compact()
    monkeypatch.undo()
    assert store.compact()


def test_export(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "m")
    passages = [
        Passage("Zwei\u2028Zeilen\x00 und 🙂", title="Ö", id="b", metadata={"x": None}),
        Passage("One", id="a"),
    ]
    store.add(passages)
    assert store.export(tmp_path / "out.jsonl") == 2
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [line["id"] for line in lines] == ["a", "b"]
    assert [Passage(**line) for line in lines] == passages[::-1]
    stream = io.StringIO()
    store.export(stream, vectors=True)
    assert json.loads(stream.getvalue().splitlines()[0])["vector"] == pytest.approx(
        store.embedder.embed_documents(["One"])[0],
        rel=1e-6,  # type: ignore[union-attr]
    )
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_equal_texts_with_other_metadata_are_two_passages(open_store: OpenStore) -> None:
    store = open_store()
    mine, yours = (Passage("x", metadata={"tenant": tenant}) for tenant in "ab")
    first, second = store.add([mine, yours])
    assert first != second
    assert store.add([mine]) == [first]
    assert len(store) == 2


def test_given_vectors_that_no_question_would_fit_are_refused() -> None:
    with HybridMemory() as memory:
        with pytest.raises(EmbedderMismatchError, match="no question would fit"):
            memory.add([Passage("hello world", id="1")], vectors=[[1.0, 0.0, 0.0]])
        memory.add([Passage("hello again", id="2")])
        assert [hit.passage.id for hit in memory.search("hello")] == ["2"]


async def test_every_call_of_a_memory_has_an_async_twin() -> None:
    calls = [name for name in vars(HybridMemory) if inspect.isfunction(getattr(HybridMemory, name)) and name[0] != "_"]
    for name in calls:
        if f"a{name}" in calls:
            twin = inspect.signature(getattr(HybridMemory, f"a{name}"))
            assert twin == inspect.signature(getattr(HybridMemory, name)), name
        else:
            assert inspect.iscoroutinefunction(getattr(HybridMemory, name)), name
    async with HybridMemory() as memory:
        await memory.aadd([Passage("One", id="1", metadata={"x": 1}), Passage("Two", id="2")])
        assert [passage.text for passage in await memory.aget(["2", "3"])] == ["Two"]
        assert await memory.adelete_where({"x": 1}) == ["1"]
        assert await memory.acompact()


def test_a_memory_is_there_while_it_is_empty_or_closed() -> None:
    with HybridMemory() as memory:
        assert (memory or None) is memory
    assert (memory or None) is memory
