"""Passages that a question has met, held until it is answered: each is read from the database once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.engines.postgres.connection import Ask, Statement
from hybridmem_plugins.memory.lexical import Floats
from hybridmem_plugins.passage import Passage

# What is read of a passage `p` with its vector `v`: all that may be asked of it later.
COLUMNS = "p.row, p.id, p.title, p.text, p.metadata, p.words, v.vector"


class Met(NamedTuple):
    """A passage that a question has met; its vector is as it was stored."""

    id: str
    title: str | None
    text: str
    metadata: str
    tokens: list[str]
    vector: NDArray[np.float32]

    def passage(self) -> Passage:
        """Return the passage as its user knows it."""
        return Passage(text=self.text, title=self.title, id=self.id, metadata=json.loads(self.metadata))


class MetRows:
    """The passages that a question has met, by row.

    Args:
        ask: Runs statements in one round trip; reads what is missing, all that is asked for at once.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._met: dict[int, Met] = {}

    def __contains__(self, row: int) -> bool:
        return row in self._met

    def __iter__(self) -> Any:
        return iter(self._met)

    def take(self, lines: Iterable[tuple[Any, ...]]) -> list[int]:
        """Remember lines of `COLUMNS`; return their rows."""
        rows = []
        for row, identity, title, text, metadata, words, vector in lines:
            rows.append(row)
            if row not in self._met:
                self._met[row] = Met(identity, title, text, metadata, words.split(), vector)
        return rows

    def of(self, rows: Sequence[int]) -> list[Met]:
        """Return passages by row.

        Raises:
            KeyError: A row is not stored.
        """
        missing = [row for row in dict.fromkeys(rows) if row not in self._met]
        if missing:
            self.take(self._ask(by_row(missing))[0])
        return [self._met[row] for row in rows]

    def units(self, rows: Sequence[int], dimension: int) -> Floats:
        """Return unit vectors, shape `(rows, dimension)`."""
        met = self.of(rows)
        if not met:
            return np.zeros((0, dimension), dtype=np.float32)
        matrix = np.stack([one.vector for one in met])
        # In float64, so that the square of a large finite number is finite, too.
        lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
        units: Floats = (matrix / lengths[:, None]).astype(np.float32)
        return units

    def frequencies(self, rows: Sequence[int], terms: Sequence[str]) -> tuple[Floats, Floats]:
        """Return how often each term stands in each passage, shape `(rows, terms)`, and the passages' lengths."""
        met = self.of(rows)
        held = [Counter(one.tokens) for one in met]
        counts = np.array([[one.get(term, 0) for term in terms] for one in held], dtype=np.float32)
        return counts.reshape(len(met), len(terms)), np.array([len(one.tokens) for one in met], dtype=np.float32)


def by_row(rows: Sequence[int]) -> Statement:
    """Return the statement that reads passages by row."""
    sql = f"SELECT {COLUMNS} FROM passages p JOIN vectors v ON v.row = p.row WHERE p.row = ANY(%s::bigint[])"
    return Statement(sql, [list(rows)])
