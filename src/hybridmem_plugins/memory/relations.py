"""Typed facts in the graph: edges between names, each kept as long as one passage states it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hybridmem_plugins.extraction.model import TypedFact
from hybridmem_plugins.memory.rows import Mask


class Relations:
    """The relations that optional extractors found.

    Args:
        graph: The networkx graph that holds them.
        connect: Adds an edge to it: source, target and a dict from relation to data.

    Attributes:
        by_row: What each passage states, by row.
        counts: How many names have a relation to each name; to be read only.
    """

    def __init__(self, graph: Any, connect: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._graph = graph
        self._connect = connect
        self.by_row: dict[int, tuple[TypedFact, ...]] = {}
        self.counts: dict[str, int] = {}

    def sources(self, name: str) -> int:
        """Return how many names have a relation to a name."""
        return self.counts.get(name, 0)

    def add(self, row: int, facts: tuple[TypedFact, ...]) -> None:
        """Take in what a passage states; its names are in the graph."""
        self.by_row[row] = facts
        for fact in facts:
            relations = self._graph._succ[fact.subject].get(fact.object)
            if relations is None:
                self.counts[fact.object] = self.counts.get(fact.object, 0) + 1
                relations = {}
                self._connect(fact.subject, fact.object, relations)
            relations.setdefault(fact.relation, {"passages": set()})["passages"].add(row)

    def remove(self, row: int) -> Iterator[str]:
        """Forget what a passage states, and yield the names that it is about."""
        for fact in self.by_row.pop(row, ()):
            self._withdraw(row, fact)
            yield fact.subject
            yield fact.object

    def about(self, names: Sequence[str], allowed: Mask | None = None) -> list[tuple[str, str, str, int]]:
        """Return the facts about names as `(subject, relation, object, row of a passage that states it)`."""
        graph = self._graph
        facts: dict[tuple[str, str, str], int] = {}
        for name in names:
            ends = [(name, other, edges) for other, edges in graph._succ.get(name, {}).items()]
            ends += [
                (other, name, edges)
                for other, edges in graph._pred.get(name, {}).items()
                if graph._node[other]["kind"] == "name"
            ]
            for subject, object_, edges in ends:
                for relation, data in edges.items():
                    rows = [row for row in sorted(data["passages"]) if allowed is None or allowed[row]]
                    if rows:
                        facts[subject, relation, object_] = rows[0]
        return [(*fact, row) for fact, row in facts.items()]

    def _withdraw(self, row: int, fact: TypedFact) -> None:
        graph = self._graph
        relations = graph._succ[fact.subject].get(fact.object, {})
        passages = relations.get(fact.relation, {}).get("passages", set())
        passages.discard(row)
        if not passages and fact.relation in relations:
            del relations[fact.relation]
            if not relations:
                del graph._succ[fact.subject][fact.object], graph._pred[fact.object][fact.subject]
                self.counts[fact.object] -= 1
                if not self.counts[fact.object]:
                    del self.counts[fact.object]
