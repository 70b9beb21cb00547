"""Embeddings of entities, searched with hnswlib."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hybridmem_plugins.memory.vectors import VectorIndex, normalised


class NodeVectors:
    """Vectors by node id, over a `VectorIndex`, whose rows are never used twice."""

    def __init__(self) -> None:
        self._index: VectorIndex | None = None
        self._rows: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._next = 1

    def set(self, vectors: Mapping[str, Sequence[float]]) -> None:
        """Store vectors, in place of those that these ids had.

        Raises:
            ValueError: Different lengths, NaN or zero vectors; then nothing is stored.
        """
        if not vectors:
            return
        dimension = None if self._index is None else self._index.dimension
        matrix = normalised([list(vector) for vector in vectors.values()], len(vectors), dimension)
        if self._index is None:
            self._index = VectorIndex(matrix.shape[1])
        self.remove(vectors)
        rows = list(range(self._next, self._next + len(vectors)))
        self._next += len(vectors)
        self._index.add(rows, matrix)
        self._rows.update(zip(vectors, rows, strict=True))
        self._ids.update(zip(rows, vectors, strict=True))

    def remove(self, ids: Iterable[str]) -> None:
        """Forget the vectors of ids; others are ignored."""
        rows = [self._rows.pop(identity) for identity in list(ids) if identity in self._rows]
        for row in rows:
            del self._ids[row]
        if self._index is not None:
            self._index.remove(rows)

    def search(self, vector: Sequence[float], k: int, allowed: Iterable[str] | None) -> list[tuple[str, float]]:
        """Return the ids nearest to a vector with their cosine similarities, best first.

        Args:
            vector: Shape `(dimension,)`.
            k: How many at most.
            allowed: Ids to choose among; None means all.

        Raises:
            ValueError: k < 1, or a vector of the wrong length or with NaN or infinity.
        """
        if self._index is None:
            return []
        mask = None
        if allowed is not None:
            mask = np.zeros(self._next, dtype=np.bool_)
            mask[[self._rows[identity] for identity in allowed if identity in self._rows]] = True
        rows, similarities = self._index.search(vector, k, mask)
        return [(self._ids[row], score) for row, score in zip(rows.tolist(), similarities.tolist(), strict=True)]
