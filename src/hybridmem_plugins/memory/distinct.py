"""The hnswlib graph over distinct vectors: many equal ones would cut it into pieces that no search leaves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.hnsw import HnswGraph, Vectors
from hybridmem_plugins.memory.rows import Rows


class DistinctGraph:
    """An `HnswGraph` that holds each vector once and knows which rows share it.

    The graph's label of a vector is the first row that brought it, and stays when that row is gone and others remain.

    Args:
        dimension: Length of the vectors.
        links: hnswlib's M.
        ef_construction: hnswlib's setting of the same name.
    """

    def __init__(self, dimension: int, *, links: int, ef_construction: int) -> None:
        self._graph = HnswGraph(dimension, links=links, ef_construction=ef_construction)
        self._label_of: dict[bytes, int] = {}
        self._sharing: dict[int, list[int]] = {}  # label to rows, where these are not just the label
        # What was loaded and has no entry in `_label_of` yet: that takes a while and only changes need it.
        self._unnamed: tuple[Rows, Vectors, dict[int, int]] | None = None

    @property
    def tombstone_share(self) -> float:
        """Share of the graph's nodes that were removed."""
        return self.tombstones / max(1, self._graph.live + self.tombstones)

    @property
    def tombstones(self) -> int:
        """Number of the graph's nodes that were removed."""
        return self._graph.dead

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Add new rows with their unit vectors."""
        self._name_loaded()
        fresh: list[int] = []
        for position, (row, name) in enumerate(zip(rows.tolist(), _names(vectors), strict=True)):
            label = self._label_of.setdefault(name, row)
            if label == row:
                fresh.append(position)
            else:
                self._sharing.setdefault(label, [label]).append(row)
        if len(fresh) == len(rows):
            self._graph.add(rows, vectors)
        elif fresh:
            self._graph.add(rows[fresh], vectors[fresh])

    def remove(self, rows: Rows, vectors: Vectors) -> None:
        """Remove rows, given their unit vectors."""
        self._name_loaded()
        gone: list[int] = []
        for row, name in zip(rows.tolist(), _names(vectors), strict=True):
            label = self._label_of[name]
            sharing = self._sharing.get(label, [label])
            sharing.remove(row)
            if not sharing:
                gone.append(label)
                del self._label_of[name]
                self._sharing.pop(label, None)
        if gone:
            self._graph.remove(np.array(gone, dtype=np.int64))

    def search(self, vector: Vectors, k: int) -> Rows | None:
        """Return the rows of about the k nearest distinct vectors, or None where hnswlib finds fewer."""
        labels = self._graph.search(vector, min(k, self._graph.live))
        if labels is None or not self._sharing:
            return labels
        rows: list[int] = []
        for label in labels.tolist():
            rows.extend(self._sharing.get(label, (label,)))
        return np.array(rows, dtype=np.int64)

    def idle(self) -> bool:
        """Return whether every queued change has been made."""
        return self._graph.idle()

    def wait(self) -> None:
        """Block until every queued change has been made; see `HnswGraph.wait`."""
        self._graph.wait()

    def close(self) -> None:
        """Finish queued changes and end the background thread."""
        self._graph.close()

    def save(self, file: Path) -> None:
        """Write hnswlib's file; `sharing` goes with it."""
        self._graph.save(file)

    def sharing(self) -> NDArray[np.int64]:
        """Return pairs of label and row for the rows that are not their own label, shape `(n, 2)`."""
        pairs = [(label, row) for label, rows in self._sharing.items() for row in rows]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def load(self, file: Path, sharing: NDArray[np.int64], rows: Rows, vectors: Vectors) -> None:
        """Read what `save` and `sharing` gave, for these rows and unit vectors."""
        for label, row in sharing.tolist():
            self._sharing.setdefault(label, []).append(row)
        label_of_row = {row: label for label, row in sharing.tolist()}
        self._unnamed = (rows.copy(), vectors, label_of_row)
        self._graph.load(file, live=len(rows) - len(label_of_row) + len(self._sharing))

    def _name_loaded(self) -> None:
        if self._unnamed is not None:
            rows, vectors, label_of_row = self._unnamed
            named = zip(rows.tolist(), _names(vectors), strict=True)
            self._label_of = {name: label_of_row.get(row, row) for row, name in named}
            self._unnamed = None


def _names(vectors: Vectors) -> list[bytes]:
    """Return a short name for each vector, equal for equal ones."""
    data, size = vectors.tobytes(), vectors.shape[1] * 4
    blake2b = hashlib.blake2b
    return [blake2b(data[start : start + size], digest_size=16).digest() for start in range(0, len(data), size)]
