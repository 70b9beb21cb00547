"""PostgreSQL passes the suites that the project gives others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.engines.postgres.connection import Statement
from hybridmem_plugins.engines.postgres.store import PostgresStore
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.memory.vectors import normalised
from hybridmem_plugins.testing import GraphStoreSuite, MemorySuite, VectorIndexSuite

Rows = Sequence[int]


class Given:
    """Gives each passage the extraction and the row that a suite asks for."""

    def __init__(self) -> None:
        self.extractions: dict[str, Extraction] = {}

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        return [self.extractions[str(passage.id)] for passage in passages]


class Tier:
    """One tier of a store, addressed by the suite's own rows."""

    def __init__(self, address: str, dimension: int) -> None:
        self.given = Given()
        self.store = PostgresStore(address, extractor=self.given)
        self.dimension = dimension
        self.own: dict[int, int] = {}  # the store's row to the suite's

    def take(self, rows: Rows, passages: Sequence[Passage], vectors: Any) -> None:
        ids = self.store.add(passages, vectors)
        stored = self.store.rows_of(ids)
        self.own |= {at: row for at, row in zip(stored, rows, strict=True) if at is not None}

    def remove(self, rows: Rows) -> None:
        at = self.at(rows)
        self.store.delete(self.store.ids(at))
        self.own = {theirs: row for theirs, row in self.own.items() if theirs not in at}

    def at(self, rows: Rows) -> list[int]:
        found = {row: theirs for theirs, row in self.own.items()}
        return [found.get(row, -1) for row in rows if row in found]

    def mask(self, allowed: Any) -> Statement | None:
        if allowed is None:
            return None
        kept = [at for at, row in self.own.items() if row < len(allowed) and allowed[row]]
        return Statement("p.row = ANY(%s::bigint[])", [kept])


class Vectors(Tier):
    def __len__(self) -> int:
        return len(self.store)

    def add(self, rows: Rows, vectors: Any) -> None:
        normalised(vectors, len(rows), self.dimension)
        self.given.extractions |= {str(row): Extraction() for row in rows}
        self.take(rows, [Passage("text", id=str(row)) for row in rows], vectors)

    def search(self, vector: Any, k: int, allowed: Any = None) -> Any:
        with self.store.reading() as view:
            rows, scores = view.vectors.search(vector, k, self.mask(allowed))
        return np.array([self.own[row] for row in rows.tolist()], dtype=np.int64), scores

    def similarity(self, vector: Any, rows: Rows) -> Any:
        with self.store.reading() as view:
            return view.vectors.similarity(vector, self.at(rows))

    def vectors(self, rows: Rows) -> Any:
        with self.store.reading() as view:
            return view.vectors.vectors(self.at(rows))


class Graph(Tier):
    find_phrase: Any = None

    def add(self, rows: Rows, passages: Sequence[Passage], extractions: Sequence[Extraction], tokens: Any) -> None:
        self.given.extractions |= {str(p.id): e for p, e in zip(passages, extractions, strict=True)}
        self.take(rows, passages, np.ones((len(rows), self.dimension)))

    def neighbourhood(self, rows: Rows, kinds: Any = ("forward", "backward", "shared"), allowed: Any = None) -> Any:
        with self.under(allowed) as view:
            steps = view.graph.neighbourhood(self.at(rows), kinds)
        own = np.vectorize(lambda row: self.own[int(row)], otypes=[np.int64])
        return type(steps)(own(steps.source), own(steps.target), steps.link, steps.links)

    def names(self, names: Any, allowed: Any = None) -> Any:
        with self.under(allowed) as view:
            infos = view.graph.names(names)
        return {
            name: type(info)(tuple(self.own[row] for row in info.definers), info.meanings, info.mentions)
            for name, info in infos.items()
        }

    def similar(self, name: str, allowed: Any = None) -> Any:
        with self.under(allowed) as view:
            return view.graph.similar(name)

    def under(self, allowed: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def reading() -> Any:
            with self.store.reading() as view:
                view._allowed = self.mask(allowed)
                yield view

        return reading()


class Addressed:
    @pytest.fixture(autouse=True)
    def _addressed(self, address: str) -> Any:
        self.address = address
        self.made: list[Any] = []
        yield
        for one in self.made:
            one.close()

    def keep(self, one: Any) -> Any:
        self.made.append(one if hasattr(one, "close") else one.store)
        return one


class TestPostgresMemory(Addressed, MemorySuite):
    def make(self) -> HybridMemory:
        return self.keep(HybridMemory(path=self.address))

    def reopen(self, memory: HybridMemory) -> HybridMemory:
        memory.close()
        return self.make()


class TestPostgresVectors(Addressed, VectorIndexSuite):
    def make(self, dimension: int) -> Any:
        return self.keep(Vectors(self.address, dimension))


class TestPostgresGraph(Addressed, GraphStoreSuite):
    orders = 0

    def make(self) -> Any:
        # The suite makes several graphs in one test.
        self.orders += 1
        return self.keep(Graph(f"{self.address}{self.orders}", 2))

    @pytest.fixture(autouse=True)
    def _cleaned(self, address: str, query: Any) -> Any:
        yield
        schema = address.rpartition("=")[2]
        for number in range(1, self.orders + 1):
            query(f"DROP SCHEMA {schema}{number} CASCADE")
