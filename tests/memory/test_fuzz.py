"""Whatever is thrown at a memory is stored and found again, or refused with a clear error, and harms nothing else."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_helpers import FakeEmbedder

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.errors import HybridMemoryError
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.tokens import words

WITNESS = Passage("The witness saw Ada Lovelace in London.", "Witness", "witness", {"kind": "witness"})
NASTY = [
    "'; DROP TABLE passages; --",
    "%",
    "_",
    "../../etc/passwd",
    'a/b\\c:d*e?f"g<h>i|j',
    "\x00",
    "\r\n\t\x1b[31m",
    "\ufeff",
    "\u202e\u200d\u200f",
    "\ud800",
    "\udc00\ud800",
    "🧠👩‍👩‍👧‍👦",
    "İ" * 5,
    "ß",
    "ﬃ",
    "e\u0301" * 3,
    "\u0e01\u0e33",
    "passage:witness",
    "[[Witness]]",
    "[Witness](witness.md)",
    "<a href='witness'>Witness</a>",
    "(" * 50,
    "[" * 50 + "]" * 50,
    "A." * 40,
    "{}",
]
ANY = st.one_of(
    st.text(st.characters(codec=None, categories=None), max_size=40),
    st.sampled_from(NASTY),
    st.lists(
        st.one_of(st.sampled_from(NASTY), st.sampled_from(["Ada Lovelace", "Witness", "1843", " "])), max_size=4
    ).map("".join),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(ANY, inner, max_size=2)),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with HybridMemory(FakeEmbedder(8), tmp_path_factory.mktemp("fuzz") / "m") as memory:
        memory.add([WITNESS])
        yield memory


def unharmed(memory: HybridMemory) -> None:
    assert memory.get(["witness"]) == [WITNESS]
    assert "witness" in [hit.passage.id for hit in memory.search("Where was Ada Lovelace?", filter={"kind": "witness"})]
    assert memory.graph.has_edge("passage:witness", "ada lovelace", "mentions")


@given(text=ANY, title=st.one_of(st.none(), ANY), identity=ANY, metadata=st.dictionaries(ANY, JSON, max_size=3))
@settings(max_examples=400, deadline=None)
@example("text", "passage:witness", "passage:witness", {})
def test_any_passage_is_found_again_or_refused(
    memory: HybridMemory, text: str, title: str | None, identity: str, metadata: dict[str, Any]
) -> None:
    passage = Passage(text, title, identity if identity != "witness" else "w", metadata)
    try:
        assert memory.add([passage]) == [passage.id]
    except (ValueError, TypeError) as error:
        assert len(str(error)) > 20
        assert len(memory) == 1
        return
    try:
        (stored,) = memory.get([str(passage.id)])
        assert (stored.text, stored.title, stored.id) == (text, title, passage.id)
        assert json.dumps(stored.metadata, sort_keys=True) == json.dumps(metadata, sort_keys=True)
        if words(text):
            found = memory.search(" ".join(words(text)), k=2)
            assert passage.id in [hit.passage.id for hit in found]
            json.dumps([hit.provenance for hit in found])
        memory.facts("Ada Lovelace")
        unharmed(memory)
    finally:
        deleted = memory.delete([str(passage.id)])
    assert deleted == [passage.id]
    unharmed(memory)
    assert len(memory) == 1
    assert memory.graph.number_of_nodes() == 1 + len(memory.graph["passage:witness"])


@given(question=ANY, filter=st.one_of(st.none(), st.dictionaries(ANY, JSON, max_size=2)), k=st.integers(-1, 3))
@settings(max_examples=400, deadline=None)
def test_any_question_is_answered_or_refused(memory: HybridMemory, question: str, filter: Any, k: int) -> None:  # noqa: A002
    for ask in (memory.search, memory.facts):
        try:
            answer = ask(question, k, filter)
        except (ValueError, TypeError) as error:
            assert len(str(error)) > 8
        else:
            assert len(answer) <= k
    assert memory.delete([question]) == []
    unharmed(memory)


@given(name=ANY.filter(lambda name: "/" not in name and len(name.encode("utf-8", "surrogatepass")) < 200))
@settings(max_examples=60, deadline=None)
def test_any_folder_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as parent:
        try:
            folder = Path(parent) / "m" / name
            with HybridMemory(FakeEmbedder(4), folder) as memory:
                memory.add([WITNESS])
        except (ValueError, OSError, HybridMemoryError):
            return
        with HybridMemory(FakeEmbedder(4), folder) as memory:
            unharmed(memory)


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200_000,
        "A" * 1_000_000,
        "Name " * 200_000,
        "." * 1_000_000,
        "(" * 300_000,
        "[" * 300_000,
        "[a](" * 100_000,
        "<a " * 100_000,
        '"' * 300_000,
        "“a" * 150_000,
        "# a" + " " * 300_000 + "b",
        "# " + "(" * 300_000,
        "\n" * 500_000 + "x",
        " " * 500_000 + "x",
        "#" * 300_000,
        "# " * 150_000,
        "1" * 500_000,
        "1999 " * 100_000,
        "東京" * 200_000,
        "A. " * 150_000,
        "J.R." * 100_000,
        "a'" * 200_000,
        "e\u0301" * 200_000,
    ],
    ids=lambda text: f"{text[:4]!a}x{len(text)}",
)
def test_long_passages_take_a_time_that_grows_with_their_length(text: str) -> None:
    memory = HybridMemory()
    memory.add([WITNESS])
    started = time.thread_time()
    memory.add([Passage(text, None, "long")])
    assert memory.get(["long"])[0].text == text
    memory.search(text[-2000:])
    memory.delete(["long"])
    assert time.thread_time() - started < 20  # quadratic ones take minutes
    unharmed(memory)


def test_ten_thousand_names_in_one_passage(memory: HybridMemory) -> None:
    names = [f"Person{number} Family{number}" for number in range(10_000)]
    memory.add([Passage("We met " + ", then ".join(names) + ".", None, "many")])
    assert len(memory.graph["passage:many"]) >= 10_000
    memory.add([Passage("A hermit.", names[5000], "one")])
    hits = memory.search(f"Who met {names[5000]}?")
    assert {"many", "one"} <= {hit.passage.id for hit in hits}
    memory.delete(["many", "one"])
    unharmed(memory)
    assert memory.graph.number_of_nodes() == 1 + len(memory.graph["passage:witness"])


def test_links_in_a_circle(memory: HybridMemory) -> None:
    circle = [Passage(f"See [[Round{(n + 1) % 5}]] and [[Round{n}]].", f"Round{n}", f"c{n}") for n in range(5)]
    memory.add(circle)
    hits = memory.search("What does Round0 see?", k=5)
    assert all(hit.provenance["hops"] <= 2 for hit in hits)
    memory.delete([f"c{n}" for n in range(5)])
    unharmed(memory)


def test_a_refused_passage_keeps_the_others_of_its_call_out(memory: HybridMemory) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        memory.add([Passage("fine", id="fine"), Passage("bad \ud800", id="bad")])
    assert len(memory) == 1


@given(text=ANY)
@settings(max_examples=500, deadline=None)
def test_extraction_stays_inside_the_text(text: str) -> None:
    extraction = BuiltinExtractor().extract([Passage(text or "x")])[0]
    last = 0
    for start, end in extraction.sentences:
        assert last <= start < end <= len(text or "x")
        last = end
    for mention in extraction.mentions:
        assert mention.name == " ".join(words(mention.name))
        assert 0 <= mention.sentence < len(extraction.sentences)
