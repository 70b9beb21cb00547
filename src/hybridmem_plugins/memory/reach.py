"""What the names of a graph join and where they lead, as far as a filter allows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.relations import Relations
from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.memory.steps import (
    ALL_KINDS,
    MAX_DEFINERS,
    MAX_MENTIONS_BACKWARD,
    MAX_MENTIONS_SHARED,
    Columns,
    Link,
    NameInfo,
    StepKind,
    Steps,
    maximal,
)
from hybridmem_plugins.memory.titles import Titles

# Names said in more passages are held against a filter by numpy, first as many passages as this, then all.
_FEW = 16
_FIRST = 256
_TOO_MANY = [-1] * (MAX_MENTIONS_BACKWARD + 1)
# The edge from a passage to a name that it defines; every such edge is this one.
DEFINES: dict[str, dict[str, Any]] = {"defines": {}}
# And the one to a name that was found in a text only because it is the title of some other passage.
SAID_TITLE: dict[str, dict[str, Any]] = {"mentions": {"kind": "title"}}


@dataclass(frozen=True, slots=True)
class GraphParts:
    """The dicts of which a graph is made, as its owner changes them.

    Attributes:
        succ: What each node leads to, with the edge.
        pred: What leads to each node, with the edge.
        data: Of each node.
        nodes: Node of each passage, by row.
        rows: Row of each passage, by node.
        titles: Which passages define which names.
        relations: The typed facts.
        hubs: Rows that mention a much said name, and those that do not only do so as somebody's title, while these do
            not change.
    """

    succ: dict[str, dict[str, dict[str, dict[str, Any]]]]
    pred: dict[str, dict[str, dict[str, dict[str, Any]]]]
    data: dict[str, dict[str, Any]]
    nodes: dict[int, str]
    rows: dict[str, int]
    titles: Titles
    relations: Relations
    hubs: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)

    def mentioning(self, name: str, as_title: bool = True) -> list[int]:
        """Return the rows of the passages that mention a name, in no order; other names that relate to it have none.

        Args:
            name: A name of the graph.
            as_title: Count also what is a mention only because the name is a title.
        """
        rows, said = self.rows, self.pred[name]
        if not as_title:
            said = {node: edges for node, edges in said.items() if edges is not SAID_TITLE}
        if self.relations.sources(name):
            return [rows[node] for node, edges in said.items() if edges is not DEFINES and node in rows]
        if name in self.titles.definers:
            return [rows[node] for node, edges in said.items() if edges is not DEFINES]
        return [rows[node] for node in said]

    def mentions(self, names: Sequence[str]) -> list[int]:
        """Return how many passages mention each of some names."""
        pred, definers, sources = self.pred, self.titles.definers, self.relations.counts
        counts = [len(pred[name]) - len(definers.get(name, ())) for name in names]
        return [count - sources.get(name, 0) for name, count in zip(names, counts, strict=True)] if sources else counts


class Reach:
    """Answers one question about a graph, which must not change meanwhile; passages left out are not even counted.

    Args:
        parts: Of the graph.
        allowed: Mask over rows; None allows all.
    """

    def __init__(self, parts: GraphParts, allowed: Mask | None) -> None:
        self._parts = parts
        self._mask = allowed
        self._allowed = None if allowed is None else allowed.tobytes()  # asked row by row, twice as fast as an array
        self._infos: dict[str, NameInfo] = {}
        self._mentioning: dict[str, list[int]] = {}

    def info(self, name: str) -> NameInfo:
        """Return what is known of a name of the graph."""
        known = self._infos.get(name)
        if known is None:
            known = self._infos[name] = self._info(name)
        return known

    def steps(self, rows: Sequence[int], kinds: Collection[StepKind] = ALL_KINDS) -> Steps:
        """Return the steps that lead from passages to others, hubs left out.

        Args:
            rows: Rows to start from; unknown ones are skipped.
            kinds: Which steps to take.
        """
        walk = Columns()
        parts = self._parts
        for row in rows:
            node = parts.nodes.get(row)
            if node is None:
                continue
            names = parts.succ[node]
            # In an order that does not tell when each became known, so that a reopened memory gives the same paths.
            mentioned = sorted(self.mentioned(names))
            if "forward" in kinds:
                for name in maximal(self._titles(mentioned)):
                    info = self.info(name)
                    walk.add(row, info.definers, Link("forward", name, info.meanings, info.mentions))
            if "shared" in kinds:
                self._follow(walk, row, "shared", mentioned, 2, MAX_MENTIONS_SHARED)
            if "backward" in kinds:
                defined = [name for name, edges in names.items() if edges is DEFINES]
                self._follow(walk, row, "backward", defined, 1, MAX_MENTIONS_BACKWARD)
        return walk.steps()

    def mentioned(self, names: Mapping[str, dict[str, dict[str, Any]]]) -> list[str]:
        """Return those of a passage's names that it mentions.

        What is a name only as a title is none where no passage of that title is allowed.

        Args:
            names: What the passage leads to, with the edges.
        """
        said = [name for name, edges in names.items() if edges is not DEFINES]
        if self._allowed is None:
            return said
        return [name for name in said if names[name] is not SAID_TITLE or self._definers(name)]

    def _titles(self, names: Sequence[str]) -> list[str]:
        """Return those of some names that are titles of allowed passages."""
        definers = self._parts.titles.definers
        titles = [name for name in names if name in definers]
        return titles if self._allowed is None else [name for name in titles if self._definers(name)]

    def _follow(self, walk: Columns, row: int, kind: StepKind, names: Sequence[str], least: int, most: int) -> None:
        """Add the steps to the passages that mention names, where these are so many."""
        for name, count in zip(names, self._mentions(names), strict=True):
            if least <= count <= most:
                walk.add(row, self._rows(name), Link(kind, name, self._meanings(self._definers(name)), count))

    def _info(self, name: str) -> NameInfo:
        definers = self._definers(name)
        mentions = min(self._mentions([name])[0], MAX_MENTIONS_BACKWARD + 1)
        return NameInfo(tuple(definers) if len(definers) <= MAX_DEFINERS else (), self._meanings(definers), mentions)

    def _definers(self, name: str) -> Sequence[int]:
        allowed, definers = self._allowed, self._parts.titles.definers.get(name, ())
        return definers if allowed is None or not definers else [row for row in definers if allowed[row]]

    def _meanings(self, definers: Sequence[int]) -> int:
        """Return how many different titles passages have, or how many they are where these are too many to look at."""
        if len(definers) < 2 or len(definers) > MAX_DEFINERS:
            return len(definers)
        data, nodes = self._parts.data, self._parts.nodes
        return len({data[nodes[row]]["title"] for row in definers})

    def _mentions(self, names: Sequence[str]) -> list[int]:
        """Return how many passages mention each of some names; with a filter, counted up to one too many."""
        return self._parts.mentions(names) if self._allowed is None else [len(self._rows(name)) for name in names]

    def _rows(self, name: str) -> list[int]:
        """Return the rows of the passages that mention a name, ascending; with a filter, `_TOO_MANY` where they are."""
        known = self._mentioning.get(name)
        if known is None:
            rows = sorted(self._parts.mentioning(name)) if self._allowed is None else self._filtered(name)
            known = self._mentioning[name] = rows
        return known

    def _filtered(self, name: str) -> list[int]:
        parts, allowed, mask = self._parts, self._allowed, self._mask
        assert allowed is not None
        assert mask is not None
        said = parts.pred[name]
        foreign = name in parts.titles.definers and not self._definers(name)
        if len(said) <= _FEW:
            return sorted([row for row in parts.mentioning(name, as_title=not foreign) if allowed[row]])
        hub = parts.hubs.get(name)
        if hub is None:
            every = own = np.array(parts.mentioning(name), dtype=np.int64)
            if name in parts.titles.definers:
                own = np.array(parts.mentioning(name, as_title=False), dtype=np.int64)
            hub = parts.hubs[name] = every, own
        known = hub[foreign]
        for part in (known[:_FIRST], known):  # of most much said names the first few passages are too many already
            inside = mask.take(part)
            if np.count_nonzero(inside) > MAX_MENTIONS_BACKWARD:
                return _TOO_MANY
        rows: list[int] = np.sort(known[inside]).tolist()
        return rows
