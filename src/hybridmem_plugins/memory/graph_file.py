"""The knowledge graph as flat arrays: opening a memory by reading them takes a tenth of what building it takes."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.extraction.model import TypedFact

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Edges:
    """What leads from the passages to names, passage by passage, each in the order of the text.

    Attributes:
        rows: Of the passages, shape `(passages,)`.
        ids: Of the passages.
        titles: Of the passages.
        names: Every name that a passage leads to.
        kinds: Kinds of edges; the first is that of definitions.
        counts: Edges of each passage, shape `(passages,)`.
        name: Index into `names`, shape `(edges,)`.
        kind: Index into `kinds`, shape `(edges,)`.
        facts: Of the passages that have any, by row.
    """

    rows: NDArray[np.int64]
    ids: list[str]
    titles: list[str | None]
    names: list[str]
    kinds: list[str]
    counts: NDArray[np.int32]
    name: NDArray[np.int32]
    kind: NDArray[np.uint8]
    facts: dict[int, tuple[TypedFact, ...]]

    def to_arrays(self) -> Arrays:
        """Return everything as arrays; strings as one JSON text."""
        facts = [[row, [astuple(fact) for fact in facts]] for row, facts in self.facts.items()]
        text = json.dumps([self.ids, self.titles, self.names, self.kinds, facts])
        return {
            "rows": self.rows, "counts": self.counts, "name": self.name, "kind": self.kind,
            "text": np.frombuffer(text.encode("ascii"), dtype=np.uint8),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Edges:
        """Read what `to_arrays` wrote.

        Raises:
            KeyError, TypeError, ValueError: Something is missing or does not fit together.
        """
        ids, titles, names, kinds, listed = json.loads(arrays["text"].tobytes())
        facts = {int(row): tuple(TypedFact(*fact) for fact in facts) for row, facts in listed}
        rows, counts, name, kind = (arrays[key] for key in ("rows", "counts", "name", "kind"))
        whole = len(rows) == len(counts) == len(ids) == len(titles) and int(counts.sum()) == len(name) == len(kind)
        if not whole or (len(name) and (name.max() >= len(names) or kind.max() >= len(kinds))):
            msg = "its parts do not fit together"
            raise ValueError(msg)
        return cls(rows, ids, titles, names, kinds, counts, name, kind, facts)

    def by_passage(self, edges: list[Any]) -> list[dict[str, Any]]:
        """Return for each passage its names with their edges.

        Args:
            edges: The edge of each kind.
        """
        names = np.array(self.names, dtype=object)[self.name].tolist()
        return _dicts(names, _chosen(edges, self.kind), self.counts)

    def by_name(self, nodes: list[str], edges: list[Any]) -> list[dict[str, Any]]:
        """Return for each name the passages that lead to it with their edges.

        Args:
            nodes: Node of each passage.
            edges: The edge of each kind.
        """
        order = np.argsort(self.name, kind="stable")
        owners = np.repeat(np.arange(len(nodes)), self.counts)[order]
        sources = np.array(nodes, dtype=object)[owners].tolist()
        counts = np.bincount(self.name, minlength=len(self.names))
        return _dicts(sources, _chosen(edges, self.kind[order]), counts)

    def definers(self) -> dict[str, list[int]]:
        """Return for each defined name the rows of the passages that define it, ascending; names by their first row."""
        defining = np.flatnonzero(self.kind == 0)
        rows = np.repeat(self.rows, self.counts)[defining]
        order = np.argsort(rows, kind="stable")
        found: dict[str, list[int]] = {}
        for name, row in zip(self.name[defining][order].tolist(), rows[order].tolist(), strict=True):
            found.setdefault(self.names[name], []).append(row)
        return found


def _chosen(edges: list[Any], kinds: NDArray[np.uint8]) -> list[Any]:
    table = np.empty(len(edges), dtype=object)
    for position, edge in enumerate(edges):  # numpy would look into the dicts
        table[position] = edge
    chosen: list[Any] = table[kinds].tolist()
    return chosen


def _dicts(keys: list[str], values: list[Any], counts: NDArray[np.integer]) -> list[dict[str, Any]]:
    """Cut a long list of keys and one of values into dicts of the given sizes."""
    pairs = zip(keys, values, strict=True)
    return [dict(islice(pairs, count)) for count in counts.tolist()]
