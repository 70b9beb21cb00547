"""The knowledge graph depends on what is stored only, never on how it came to be stored."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import FakeEmbedder

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, Mention, TypedFact
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.cachefile import save_cache
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.steps import (
    MAX_DEFINERS,
    MAX_MENTIONS_BACKWARD,
    MAX_MENTIONS_SHARED,
)


class StatingExtractor:
    """Also states that whatever a passage defines is related to whatever it mentions."""

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        return [self._with_facts(e) for e in BuiltinExtractor().extract(passages)]

    def _with_facts(self, e: Extraction) -> Extraction:
        facts = [TypedFact(d, "mentions", m.name, m.sentence) for d in e.defines[:1] for m in e.mentions[:2]]
        facts += [TypedFact(m.name, "knows", "ada", m.sentence) for m in e.mentions[:1]]
        return Extraction(e.sentences, e.defines, e.mentions, tuple(facts))


class Bench:
    """A graph with the part of the word index that it needs."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[str]] = {}
        self.graph = KnowledgeGraph(self.find)

    def find(self, phrases: Sequence[Sequence[str]]) -> list[list[int]]:
        return [
            [row for row, tokens in self.tokens.items() if f" {' '.join(phrase)} " in f" {' '.join(tokens)} "]
            for phrase in phrases
        ]

    def add(self, passages: dict[int, Passage], extractor: Any = None) -> None:
        texts = {row: words(f"{p.title}\n{p.text}" if p.title else p.text) for row, p in passages.items()}
        self.tokens |= texts
        extractions = (extractor or StatingExtractor()).extract(list(passages.values()))
        self.graph.add(list(passages), list(passages.values()), extractions, list(texts.values()))

    def remove(self, rows: Sequence[int]) -> None:
        for row in rows:
            del self.tokens[row]
        self.graph.remove(rows)


def canonical(graph: Any) -> tuple[dict[str, Any], list[Any]]:
    """Return a graph's content, free of order."""

    def plain(data: dict[str, Any]) -> dict[str, Any]:
        return {key: sorted(value) if isinstance(value, set) else value for key, value in data.items()}

    nodes = {node: plain(data) for node, data in graph.nodes(data=True)}
    return nodes, sorted((u, v, key, repr(plain(data))) for u, v, key, data in graph.edges(keys=True, data=True))


def built(passages: dict[int, Passage]) -> Bench:
    bench = Bench()
    with bench.graph.bulk():
        bench.add(passages)
    return bench


NAMES = ["Ada", "New York", "York", "Quantum Dot", "Quantum Dots", "東京", "Charles Babbage", "Dots", "The Dot", "1843"]
PIECES = st.sampled_from([*NAMES, *(n.lower() for n in NAMES), "was in", "with", '"Quantum Dot"', "[[Ada]]", "."])
TEXTS = st.lists(PIECES, min_size=1, max_size=7).map(" ".join).filter(str.strip)
TITLES = st.one_of(st.none(), st.sampled_from(NAMES))
PASSAGES = st.lists(st.builds(Passage, text=TEXTS, title=TITLES), min_size=1, max_size=7)


def numbered(passages: list[Passage]) -> dict[int, Passage]:
    return {row: Passage(p.text, p.title, f"id{row}") for row, p in enumerate(passages, 1)}


@given(passages=PASSAGES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_the_same_passages_give_the_same_graph_in_any_order(passages: list[Passage], data: st.DataObject) -> None:
    rows = numbered(passages)
    order = data.draw(st.permutations(list(rows)))
    one_by_one, batched = Bench(), Bench()
    for row in order:
        one_by_one.add({row: rows[row]})
    cut = data.draw(st.integers(0, len(order)))
    for part in (order[:cut], order[cut:]):
        batched.add({row: rows[row] for row in part})
    expected = canonical(built(rows).graph.view)
    assert canonical(one_by_one.graph.view) == expected
    assert canonical(batched.graph.view) == expected


@given(passages=PASSAGES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_removing_leaves_what_the_rest_alone_would_give(passages: list[Passage], data: st.DataObject) -> None:
    rows = numbered(passages)
    gone = data.draw(st.lists(st.sampled_from(list(rows)), unique=True))
    bench = built(rows)
    bench.remove(gone)
    rest = {row: passage for row, passage in rows.items() if row not in gone}
    assert canonical(bench.graph.view) == canonical(built(rest).graph.view)
    fresh = built(rest).graph
    for name in [*map(str.lower, NAMES), "babbage"]:
        assert bench.graph.names([name]) == fresh.names([name])
        assert bench.graph.similar(name + "x") == fresh.similar(name + "x")
    steps, expected = bench.graph.neighbourhood(list(rest)), fresh.neighbourhood(list(rest))
    assert [steps.target.tolist(), steps.links] == [expected.target.tolist(), expected.links]


@given(passages=PASSAGES, bits=st.integers(0, 127))
@settings(max_examples=200, deadline=None)
def test_a_mask_hides_as_if_the_others_were_not_there(passages: list[Passage], bits: int) -> None:
    """Of the walk and the facts; only mentions of a name that is a title elsewhere stay, and lead nowhere."""
    rows = numbered(passages)
    allowed = np.array([False, *(bool(bits >> i & 1) for i in range(len(rows)))])
    graph = built(rows).graph
    steps = graph.neighbourhood([row for row in rows if allowed[row]], allowed=allowed)
    assert all(allowed[steps.target])
    assert all(allowed[steps.source])
    alone = built({row: p for row, p in rows.items() if allowed[row]}).graph
    for name in map(str.lower, NAMES):
        seen, expected = graph.names([name], allowed).get(name), alone.names([name]).get(name)
        assert (seen.definers if seen else ()) == (expected.definers if expected else ())
        if seen and seen.definers:
            assert seen == expected
    for name in alone.view:
        if not name.startswith("passage:"):
            assert sorted(graph.relations([name], allowed)) == sorted(alone.relations([name]))


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 5), TEXTS, TITLES), min_size=1, max_size=3)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 5), max_size=3)),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=8,
)


@given(changes=CHANGES)
@settings(max_examples=60, deadline=None)
def test_the_graph_equals_one_rebuilt_from_the_journal(changes: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "m"
        with HybridMemory(FakeEmbedder(4), folder, extractor=StatingExtractor()) as memory:
            for what, values in changes:
                if what == "add":
                    memory.add([Passage(text, title, str(n)) for n, text, title in {v[0]: v for v in values}.values()])
                elif what == "delete":
                    memory.delete([str(n) for n in values])
                else:
                    memory.compact()
            live = canonical(memory.graph)
            with HybridMemory(FakeEmbedder(4), folder, extractor=StatingExtractor()) as rebuilt:
                assert canonical(rebuilt.graph) == live
                for question in ("Ada in New York", "quantum dots"):
                    if len(memory):
                        assert memory.search(question) == rebuilt.search(question)
                        assert memory.facts(question) == rebuilt.facts(question)


def test_orphans_go_and_supported_names_stay() -> None:
    bench = Bench()
    bench.add({1: Passage("Met Ada in Paris.", "Bob", "1"), 2: Passage("Ada wrote.", None, "2")})
    bench.remove([1])
    assert "paris" not in bench.graph.view
    assert "bob" not in bench.graph.view
    assert "ada" in bench.graph.view
    bench.remove([2])
    assert canonical(bench.graph.view) == ({}, [])
    assert not bench.graph._relations.by_row
    assert not bench.graph._relations.counts
    assert not bench.graph._titles.definers
    assert not bench.graph._titles._lengths
    assert not any(bench.graph._titles._spellings.values())


def test_a_title_finds_who_said_it_before_and_loses_them_when_it_goes() -> None:
    bench = Bench()
    bench.add({1: Passage("we used quantum dots here", None, "1")})
    bench.add({2: Passage("Tiny.", "Quantum Dot", "2")})
    assert bench.graph.mentions(1) == ["quantum dot"]
    assert bench.graph.neighbourhood([1], ["forward"]).target.tolist() == [2]
    assert bench.graph.neighbourhood([2], ["backward"]).target.tolist() == [1]
    bench.add({3: Passage("with quantum dots too", None, "3")})
    assert bench.graph.names(["quantum dot"])["quantum dot"].mentions == 2
    bench.remove([2])
    assert bench.graph.mentions(1) == bench.graph.mentions(3) == []


def test_a_plural_is_not_read_off_the_end_of_a_text() -> None:
    passages = [Passage("Ada", "The Dot", "1"), Passage("Dots", None, "2"), Passage("Dots Ada", None, "3")]
    graph = built(dict(enumerate(passages, 1))).graph
    assert graph.mentions(2) == []


def test_hubs_lead_nowhere() -> None:
    bench = Bench()
    count = MAX_MENTIONS_BACKWARD + 1
    bench.add({1: Passage("A country.", "France", "0")})
    bench.add({row: Passage(f"number{row} lies in France.", None, str(row)) for row in range(2, 2 + count - 1)})
    assert len(bench.graph.neighbourhood([1], ["backward"])) == count - 1
    bench.add({500: Passage("The last one lies in France.", None, "500")})
    assert bench.graph.names(["france"])["france"].mentions == count
    assert len(bench.graph.neighbourhood([1], ["backward"])) == 0
    assert bench.graph.neighbourhood([500], ["forward"]).target.tolist() == [1]
    few = np.zeros(501, dtype=bool)
    few[[1, 2, 3, 500]] = True  # for whom only three others count, it is no hub
    assert bench.graph.neighbourhood([1], ["backward"], few).target.tolist() == [2, 3, 500]
    assert set(bench.graph.neighbourhood([2], ["shared"], few).target.tolist()) == {3, 500}
    assert len(bench.graph.neighbourhood([2], ["shared"])) == 0
    assert count > MAX_MENTIONS_SHARED


def test_much_said_names_count_for_a_filter_as_often_as_it_allows() -> None:
    bench = Bench()
    last = 600
    bench.add({1: Passage("A country.", "France", "0")})
    bench.add({row: Passage(f"number{row} lies in France.", None, str(row)) for row in range(2, last + 1)})
    for chosen in ([590, 595, 599], list(range(2, 60)), list(range(540, 598)), list(range(550, 600)), [2, 400]):
        allowed = np.zeros(last + 1, dtype=bool)
        allowed[[1, *chosen]] = True
        mentions = min(len(chosen), MAX_MENTIONS_BACKWARD + 1)
        assert bench.graph.names(["france"], allowed)["france"].mentions == mentions
        steps = bench.graph.neighbourhood([1], ["backward"], allowed)
        assert steps.target.tolist() == (chosen if len(chosen) <= MAX_MENTIONS_BACKWARD else [])
    bench.remove([400])
    assert bench.graph.neighbourhood([1], ["backward"], allowed).target.tolist() == [2]


def test_a_name_that_too_many_define_leads_to_none() -> None:
    bench = Bench()
    bench.add({row: Passage("One of many.", "Smith", str(row)) for row in range(1, MAX_DEFINERS + 2)})
    info = bench.graph.names(["smith"])["smith"]
    assert (info.definers, info.meanings) == ((), MAX_DEFINERS + 1)


def test_the_view_cannot_be_changed_and_follows() -> None:
    bench = Bench()
    view = bench.graph.view
    bench.add({1: Passage("Ada met Bob.", "Ada", "1")})
    assert isinstance(view, nx.MultiDiGraph)
    assert view.has_edge("passage:1", "bob", "mentions")
    assert view["passage:1"]["ada"] == {"defines": {}}
    with pytest.raises(nx.NetworkXError):
        view.add_edge("a", "b")
    copy = nx.MultiDiGraph(view)
    copy.edges["passage:1", "bob", "mentions"]["kind"] = "changed"
    assert view.edges["passage:1", "bob", "mentions"]["kind"] == "name"


def test_networkx_agrees_with_what_was_written_past_it() -> None:
    bench = Bench()
    bench.add({1: Passage("Ada met Bob in Paris.", "Ada", "1"), 2: Passage("Bob met Ada.", "Bob", "2")})
    view = bench.graph.view
    plain = nx.MultiDiGraph()
    plain.add_nodes_from(view.nodes(data=True))
    plain.add_edges_from(view.edges(keys=True, data=True))
    assert nx.utils.graphs_equal(plain, nx.MultiDiGraph(view))
    assert sorted(view.reverse().edges()) == sorted((v, u) for u, v in view.edges())


def test_an_extractors_names_cannot_pose_as_passages() -> None:
    class Posing:
        def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
            return [Extraction(mentions=(Mention("passage:a", "entity", 0),)) for _ in passages]

    with HybridMemory(FakeEmbedder(4)) as memory:
        memory.add([Passage("one", id="a")])
        memory._store.extractor = Posing()
        with pytest.raises(ValueError, match="passage:a"):
            memory.add([Passage("two", id="b")])
        assert len(memory) == 1


@given(passages=PASSAGES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_saved_graph_is_read_back_whole_and_lives_on(passages: list[Passage], data: st.DataObject) -> None:
    rows = numbered(passages)
    cut = data.draw(st.integers(0, len(rows)))
    gone = data.draw(st.lists(st.sampled_from(list(rows)), unique=True))
    first = {row: rows[row] for row in list(rows)[:cut]}
    saved, again = built(first), Bench()
    again.tokens = dict(saved.tokens)
    with tempfile.TemporaryDirectory() as folder:
        saved.graph.save(Path(folder), {"version": 7})
        assert again.graph.load(Path(folder)) == {"version": 7}
    assert again.graph.rows().tolist() == list(first)
    for bench in (saved, again):
        bench.add({row: rows[row] for row in list(rows)[cut:]})
        bench.remove(gone)
    assert canonical(again.graph.view) == canonical(saved.graph.view)
    for hidden in ("_rows", "_nodes"):
        assert getattr(again.graph, hidden) == getattr(saved.graph, hidden)
    assert vars(again.graph._titles) == vars(saved.graph._titles)
    assert again.graph._relations.by_row == saved.graph._relations.by_row


@pytest.mark.parametrize("harm", ["counts", "name", "text"])
def test_a_damaged_graph_file_is_refused_and_leaves_nothing(tmp_path: Path, harm: str) -> None:
    bench = built({1: Passage("Ada met Charles Babbage.", title="Ada", id="a"), 2: Passage("Ada.", id="b")})
    edges = bench.graph._edges().to_arrays()
    bad = {"counts": edges["counts"] + 1, "name": edges["name"] + 10_000, "text": edges["text"][:-4]}
    save_cache(tmp_path, "graph", {"stamp": None}, {**edges, harm: bad[harm]})
    with pytest.raises(MemoryFormatError, match="damaged"):
        bench.graph.load(tmp_path)
    assert len(bench.graph) == 0
