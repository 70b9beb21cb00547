"""What users count on in a memory, whichever engine holds it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.memory.filters import compile_filter
from hybridmem_plugins.samples import load_corpus, load_questions

_PEOPLE = [
    Passage("She wrote to Charles Babbage about the Analytical Engine.", "Ada Lovelace", "1", {"tenant": "a", "n": 1}),
    Passage("He designed the Analytical Engine in London.", "Charles Babbage", "2", {"tenant": "b", "n": 2.5}),
    Passage("the analytical engine was never built, says Ada Lovelace.", None, "3", {"tenant": "a", "tags": ["x", 7]}),
    Passage("A machine of brass.", "Analytical Engine", "4", {"tenant": "b", "deep": {"er": None}}),
    Passage("The Analytical Engines of London were two.", "London", "5", {"tenant": "a", "n": "2"}),
]
_FILTERS: list[dict[str, Any]] = [
    {"tenant": "a"}, {"tenant": {"$ne": "a"}}, {"tenant": {"$in": ["b", 3]}}, {"tenant": {"$nin": ["b"]}},
    {"n": {"$gt": 1}}, {"n": {"$lte": 2.5}}, {"n": {"$gte": "1"}}, {"n": {"$exists": False}}, {"n": 1.0},
    {"tags": {"$contains": 7}}, {"tenant": {"$contains": "b"}}, {"deep.er": None}, {"deep": {"er": None}},
    {"$or": [{"n": 1}, {"$not": {"tenant": "a"}}]}, {"tenant": "none of these"},
]  # fmt: skip
_QUESTIONS = ["Who designed the machine that Ada Lovelace wrote about?", "What was never built?", "Lodnon", "brass"]


class MemorySuite:
    """Tests of a whole memory against the embedded one; override `make`, and `reopen` where a memory outlives `close`.

    Attributes:
        tolerance: By how much scores may differ.
    """

    tolerance = 1e-5

    def make(self) -> HybridMemory:
        """Return an empty memory with the bundled embedder."""
        raise NotImplementedError

    def reopen(self, memory: HybridMemory) -> HybridMemory:
        """Close a memory and open it again."""
        return memory

    def test_answers_are_those_of_the_embedded_memory(self) -> None:
        """Same passages, same order, same scores, same paths, same facts; in every route."""
        with self.make() as memory, HybridMemory() as embedded:
            corpus = load_corpus()
            memory.add(corpus)
            embedded.add(corpus)
            for question in load_questions():
                for route in ("auto", "semantic", "relational", "both", "vector"):
                    self._alike(memory, embedded, question.question, None, route)
                self._same_facts(memory, embedded, question.question, None)
                hops = [explained.explain(question.question).hops for explained in (memory, embedded)]
                assert hops[0] == hops[1]

    def test_texts_that_no_title_tells_of_are_read_alike(self) -> None:
        """Without titles, with files' names and numbers for them, and among copies that differ in a detail."""
        titles = ("", "doc_{}.txt", "{}")
        corpus = [replace(p, title=titles[i % 3].format(i) or None) for i, p in enumerate(load_corpus())]
        corpus += [Passage(f"In version {n}: The default timeout is {n + 3} seconds.", id=f"v{n}") for n in range(12)]
        with self.make() as memory, HybridMemory() as embedded:
            memory.add(corpus)
            embedded.add(corpus)
            for question in [*(one.question for one in load_questions()), "What is the timeout in version 7?"]:
                self._alike(memory, embedded, question, None, "auto")

    def test_filters_hold_in_every_tier(self) -> None:
        """What a filter excludes is not returned, not walked over and not counted: as if it were not there."""
        with self.make() as memory:
            memory.add(_PEOPLE)
            for allowed in _FILTERS:
                wanted = [p for p in _PEOPLE if compile_filter(allowed)(p.metadata)]
                with HybridMemory() as alone:
                    alone.add(wanted)
                    for question in _QUESTIONS:
                        hits = self._alike(memory, alone, question, allowed, "both")
                        assert {hit.passage.id for hit in hits} <= {p.id for p in wanted}
                        self._same_facts(memory, alone, question, allowed)
                assert len(memory.search("machine", 10, allowed)) == len(wanted)

    def test_nothing_tells_of_another_tenant(self) -> None:
        """Order, scores, paths and facts are those of a memory that holds the tenant's passages alone."""
        corpus = load_corpus()
        own = [replace(p, id=f"a{p.id}", metadata={"tenant": "a"}) for p in corpus[::2]]
        others = [replace(p, id=f"b{p.id}", metadata={"tenant": "b"}) for p in corpus]
        with self.make() as memory, HybridMemory() as alone:
            memory.add([*others[:20], *own, *others[20:]])
            alone.add(own)
            for question in [*(one.question for one in load_questions()), "Who works at IBM?", "DRAM refresh"]:
                self._alike(memory, alone, question, {"tenant": "a"}, "auto")
                self._same_facts(memory, alone, question, {"tenant": "a"})

    def test_order_of_adding_does_not_count(self) -> None:
        """A title finds who said it before it was one, in one batch or in many."""
        with self.make() as memory, HybridMemory() as embedded:
            for number in (4, 2, 0, 3, 1):
                memory.add([_PEOPLE[number]])
            embedded.add(_PEOPLE)
            assert _edges(memory) == _edges(embedded)
            hits = memory.search(_QUESTIONS[0], 5)
            assert [h.passage.id for h in hits] == [h.passage.id for h in embedded.search(_QUESTIONS[0], 5)]

    def test_adding_again_changes_nothing_and_the_same_id_replaces(self) -> None:
        """Writing can be repeated."""
        with self.make() as memory:
            memory.add(_PEOPLE)
            version = memory.store.rows_of(["1", "2", "3", "4", "5"])
            assert memory.add(_PEOPLE) == ["1", "2", "3", "4", "5"]
            assert memory.store.rows_of(["1", "2", "3", "4", "5"]) == version
            memory.add([Passage("Ada Lovelace sailed to Oslo.", "Oslo", "1", {"tenant": "b"})])
            assert len(memory) == 5
            assert memory.get(["1"])[0].title == "Oslo"
            assert "1" not in {hit.passage.id for hit in memory.search("Who wrote to Babbage?", 5, {"tenant": "a"})}

    def test_deleting_leaves_nothing(self) -> None:
        """Not in answers, not in the graph, not in what others' words are worth."""
        with self.make() as memory, HybridMemory() as embedded:
            memory.add(_PEOPLE)
            assert memory.delete(["1", "nobody", "4"]) == ["1", "4"]
            assert memory.delete_where({"n": "2"}) == ["5"]
            embedded.add([_PEOPLE[1], _PEOPLE[2]])
            assert _edges(memory) == _edges(embedded)
            for question in _QUESTIONS:
                self._alike(memory, embedded, question, None, "both")
            memory.delete(["2", "3"])
            assert memory.search("brass") == []
            assert memory.graph.number_of_nodes() == 0

    def test_an_empty_memory_answers_nothing(self) -> None:
        """No passage, no answer, no error."""
        with self.make() as memory:
            assert memory.search("anything") == []
            assert memory.facts("anything", filter={"tenant": "a"}) == []
            assert memory.explain("anything").hits == ()
            assert memory.delete(["1"]) == []
            assert len(memory) == 0

    def test_reopening_gives_the_same_answers(self) -> None:
        """What was stored stays."""
        memory = self.make()
        memory.add(_PEOPLE)
        before = [memory.search(question) for question in _QUESTIONS]
        memory = self.reopen(memory)
        assert [memory.search(question) for question in _QUESTIONS] == before
        memory.close()

    def test_bad_input_is_refused_before_anything_is_stored(self) -> None:
        """Clear errors, and nothing half."""
        with self.make() as memory:
            for bad in (
                Passage("", id="x"),
                Passage("text", id=""),
                Passage("text", id="x", metadata={"f": float("nan")}),
            ):
                assert _refused(lambda bad=bad: memory.add([_PEOPLE[0], bad]))
            assert _refused(lambda: memory.add([_PEOPLE[0]], [[0.0] * 256]))
            assert _refused(lambda: memory.search("question", filter={"x": {"$regex": "y"}}))
            assert _refused(lambda: memory.delete_where({}))
            assert _refused(lambda: memory.delete_where({"$and": []}))
            assert len(memory) == 0

    def _alike(self, memory: HybridMemory, embedded: HybridMemory, question: str, allowed: Any, route: Any) -> Any:
        hits, expected = (one.search(question, 6, allowed, route) for one in (memory, embedded))
        assert [hit.passage for hit in hits] == [hit.passage for hit in expected], (question, allowed, route)
        for hit, other in zip(hits, expected, strict=True):
            assert abs(hit.score - other.score) < self.tolerance, (question, allowed, route)
            assert hit.provenance["path"] == other.provenance["path"], (question, allowed, route)
        return hits

    def _same_facts(self, memory: HybridMemory, embedded: HybridMemory, question: str, allowed: Any) -> None:
        facts, expected = (one.facts(question, filter=allowed) for one in (memory, embedded))
        assert [replace(fact, score=0) for fact in facts] == [replace(fact, score=0) for fact in expected], question
        assert all(abs(f.score - e.score) < self.tolerance for f, e in zip(facts, expected, strict=True)), question


def _edges(memory: HybridMemory) -> set[Any]:
    return set(memory.graph.edges(keys=True))


def _refused(call: Any) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False
