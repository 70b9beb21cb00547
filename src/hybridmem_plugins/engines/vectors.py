"""The semantic tier in a vector database, beside a memory's journal, which stays the truth.

The database is asked which passages are near; how near they are is computed from the journal's vectors, so that scores
are exact whatever precision the database keeps, and nothing that it returns by mistake gets through.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.engines.address import asked
from hybridmem_plugins.engines.pushing import Push, pushed, shown
from hybridmem_plugins.memory.caches import Batch
from hybridmem_plugins.memory.rows import Mask, Rows, as_rows
from hybridmem_plugins.memory.vectors import normalised, unit_query

Floats = NDArray[np.float32]

# Unit vectors kept of the passages looked at last: at 256 dimensions 8 MB.
_KEPT = 8192
# From here on, the journal's vectors are scanned.
_WIDEST = 4096
_ROW = 2**64 - 1


class VectorEngine(Protocol):
    """A vector database, reached through a framework's store.

    Ids are UUIDs as text. Anything may be raised; it becomes an `EngineError`.
    """

    name: str
    """Tells this database, and the collection in it, from others."""

    def upsert(self, ids: Sequence[str], vectors: Floats, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Store vectors; those of the same id are replaced."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Forget vectors; unknown ids are ignored."""
        ...

    def search(self, vector: Floats, k: int, push: Push | None) -> Sequence[str]:
        """Return the ids of the k nearest by cosine among those that pass, best first."""
        ...


@dataclass(frozen=True, slots=True)
class ExternalTier:
    """Makes the vector tier of a memory in a database.

    Attributes:
        engine: The database.
    """

    engine: VectorEngine

    @property
    def name(self) -> str:
        """The database, and the collection in it."""
        return self.engine.name

    def __call__(
        self,
        memory: str,
        dimension: int,
        read: Callable[[Sequence[int]], Mapping[int, bytes]],
        rows: Callable[[], Rows],
    ) -> ExternalVectors:
        """Return the tier; see `ExternalVectors`."""
        return ExternalVectors(self.engine, memory, dimension, read, rows)


class ExternalVectors:
    """Stands in for `VectorIndex` in a memory whose vectors are in a database.

    Args:
        engine: The database.
        memory: The memory's own id, so that answers of another memory are told apart.
        dimension: Length of the vectors.
        read: Returns stored vectors of rows as little-endian float32.
        rows: Returns all rows.
    """

    def __init__(
        self,
        engine: VectorEngine,
        memory: str,
        dimension: int,
        read: Callable[[Sequence[int]], Mapping[int, bytes]],
        rows: Callable[[], Rows],
    ) -> None:
        self.dimension = dimension
        self._engine = engine
        self._mark = int(memory[:16], 16) << 64
        self._read = read
        self.rows = rows
        self._units: OrderedDict[int, Floats] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows())

    # What the store tells the database before and after its own transaction.

    @property
    def name(self) -> str:
        """The database, and the collection in it."""
        return self._engine.name

    def bind(self, memory: str) -> None:
        """Do nothing: it was told when it was made."""

    def restart(self) -> None:
        """Do nothing: what is stored of rows that are gone is told apart, and the rest is replaced."""

    def whole(self) -> bool:
        """Return True: vector databases have no common way to count."""
        return True

    def send(
        self,
        rows: Sequence[int],
        batch: Batch,
        vectors: Floats,
        removed: Collection[int] = (),
        *,
        everything: bool = False,
    ) -> None:
        """Store vectors in the database; see `Follower`.

        Raises:
            EngineError: It failed; adding again is safe.
        """
        unit = normalised(vectors, len(rows), self.dimension)
        metadata = [shown(passage.metadata) for passage in batch.passages]
        self._ask(lambda: self._engine.upsert(self._ids(rows), unit, metadata))

    def forget(self, rows: Sequence[int]) -> None:
        """Delete vectors from the database."""
        if rows:
            self._ask(lambda: self._engine.delete(self._ids(rows)))

    # What `Caches` asks of a `VectorIndex`; the journal has changed already, and the database with it.

    def add(self, rows: Any, vectors: Any) -> None:
        """Do nothing: the database has them."""

    def remove(self, rows: Any) -> None:
        """Do nothing: the store asks the database to."""

    def compact(self) -> None:
        """Do nothing: the database does so itself."""

    def close(self) -> None:
        """Do nothing: the database is its owner's."""

    def save(self, folder: Path, stamp: Any = None) -> None:
        """Do nothing: the database keeps itself."""

    # What retrieval asks.

    def search(self, vector: ArrayLike, k: int, allowed: Mask | None = None) -> tuple[Rows, Floats]:
        """Return the rows nearest to a vector and their cosine similarities, best first; see `VectorIndex.search`."""
        if k < 1:
            msg = f"k must be at least 1, not {k}"
            raise ValueError(msg)
        query = unit_query(vector, self.dimension)
        live = self.rows()
        if allowed is not None:
            inside = live[live < len(allowed)]
            live = inside[np.asarray(allowed)[inside]]
        k = min(k, len(live))
        rows = self._nearest(query, k, set(live.tolist()), pushed(getattr(allowed, "query", None))) if k else []
        return self._ranked(query, live if rows is None else as_rows(rows), k)

    def similarity(self, vector: ArrayLike, rows: Sequence[int] | Rows) -> Floats:
        """Return the cosine similarity of a vector to each row."""
        similarities: Floats = np.einsum("ij,j->i", self.vectors(rows), unit_query(vector, self.dimension))
        return similarities

    def vectors(self, rows: Sequence[int] | Rows) -> Floats:
        """Return the unit vectors of rows, shape `(rows, dimension)`.

        Raises:
            KeyError: A row is not stored.
        """
        wanted = as_rows(rows).tolist()
        known = {row: unit for row in wanted if (unit := self._units.get(row)) is not None}
        missing = [row for row in dict.fromkeys(wanted) if row not in known]
        if missing:
            found = self._read(missing)
            matrix = np.stack([np.frombuffer(found[row], dtype="<f4") for row in missing])
            known |= zip(missing, normalised(matrix, len(missing)), strict=True)
            self._units.update((row, known[row]) for row in missing)
            while len(self._units) > _KEPT:
                self._units.popitem(last=False)
        return np.stack([known[row] for row in wanted]) if wanted else np.zeros((0, self.dimension), dtype=np.float32)

    def _nearest(self, query: Floats, k: int, live: set[int], push: Push | None) -> list[int] | None:
        """Ask for more until enough of the answers are allowed; None where a scan is due."""
        asked = k
        while asked <= _WIDEST:
            ids = self._ask(lambda asked=asked: self._engine.search(query, asked, push))  # type: ignore[misc]
            rows = [row for row in dict.fromkeys(map(self._row, ids)) if row in live]
            if len(rows) >= k:
                return rows
            if len(ids) < asked:
                break
            asked *= 4
        return None

    def _ranked(self, query: Floats, rows: Rows, k: int) -> tuple[Rows, Floats]:
        best, scores = rows[:0], np.zeros(0, dtype=np.float32)
        for start in range(0, len(rows), _WIDEST):
            part = rows[start : start + _WIDEST]
            best = np.concatenate([best, part])
            scores = np.concatenate([scores, self.similarity(query, part)])
            order = np.lexsort((best, -scores))[:k]
            best, scores = best[order], scores[order]
        return best, scores

    def _ask(self, call: Callable[[], Any]) -> Any:
        return asked(f"the vector database {self._engine.name}", call)

    def _ids(self, rows: Sequence[int]) -> list[str]:
        return [str(UUID(int=self._mark | int(row))) for row in rows]

    def _row(self, identity: str) -> int:
        """Return the row in an id; -1 where it is another memory's."""
        number = UUID(str(identity)).int
        return number & _ROW if number & ~_ROW == self._mark else -1
