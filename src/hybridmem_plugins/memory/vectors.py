"""The semantic tier: vectors by row, searched by cosine similarity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.errors import MemoryFormatError, require
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.distinct import DistinctGraph
from hybridmem_plugins.memory.hnsw import Vectors, import_hnswlib
from hybridmem_plugins.memory.rows import Buffer, Mask, RowMap, Rows, as_rows

logger = logging.getLogger(__name__)

Engine = Literal["auto", "hnswlib", "exact"]

# Measured on two cores at 256 dimensions: scanning 4,096 vectors takes about as long (0.2 ms) as asking hnswlib for 100
# candidates, and is exact. The same holds for a filter that leaves that many.
EXACT_LIMIT = 4096
# A filter keeps a share of what hnswlib returns, so more is asked for; beyond this many a scan is as fast.
WIDEST_SEARCH = 2000
DEAD_SHARE = 0.25


class VectorIndex:
    """Cosine nearest neighbours: hnswlib for many vectors, an exact scan for few, for narrow filters and as a fallback.

    Rows are positive integers chosen by the caller and never used twice. Not safe for changing in one thread while
    another searches; `MemoryStore` holds the lock.

    Args:
        dimension: Length of the vectors.
        engine: "auto" uses hnswlib (where installed) beyond `exact_limit` vectors, "hnswlib" always, "exact" never.
        links: hnswlib's M.
        ef_construction: hnswlib's setting of the same name. Measured on 30,000 vectors of 256 dimensions: 64, 80, 128
            and 200 find equally much (recall@20 0.983 to 0.986), and 200 takes more than twice as long as 80.
        exact_limit: Number of vectors up to which an exact scan is used.

    Raises:
        ImportError: `engine="hnswlib"` and hnswlib is not installed.

    Example:
        >>> index = VectorIndex(2)
        >>> index.add([1, 2, 3], [[1, 0], [1, 1], [0, 5]])
        >>> rows, similarities = index.search([2, 0], k=2)
        >>> rows.tolist(), similarities.round(2).tolist()
        ([1, 2], [1.0, 0.7099999785423279])
    """

    def __init__(
        self,
        dimension: int,
        *,
        engine: Engine = "auto",
        links: int = 16,
        ef_construction: int = 80,
        exact_limit: int = EXACT_LIMIT,
    ) -> None:
        if engine not in ("auto", "hnswlib", "exact"):
            msg = f"engine must be 'auto', 'hnswlib' or 'exact', not {engine!r}"
            raise ValueError(msg)
        if dimension < 1:
            msg = f"dimension must be at least 1, not {dimension}"
            raise ValueError(msg)
        if engine == "hnswlib":
            require("hnswlib", "hnsw")
        self.dimension = dimension
        self._approximate = engine != "exact"
        self._exact_limit = 0 if engine == "hnswlib" else exact_limit
        self._links = links
        self._ef_construction = ef_construction
        self._map = RowMap()
        self._matrix = Buffer(np.float32, dimension)
        self._graph: DistinctGraph | None = None
        self._next_graph: DistinctGraph | None = None  # being built without tombstones while `_graph` still serves

    def __len__(self) -> int:
        return len(self._map)

    @property
    def engine(self) -> str:
        """The engine that an unfiltered search uses now: "hnswlib" or "exact"."""
        return "hnswlib" if self._graph is not None and len(self) > self._exact_limit else "exact"

    def add(self, rows: Sequence[int] | Rows, vectors: ArrayLike) -> None:
        """Store vectors; their length is normalised away.

        Args:
            rows: New rows, shape `(n,)`.
            vectors: Shape `(n, dimension)`.

        Raises:
            ValueError: Wrong shape, NaN, infinity, a zero vector, or a row that was used before.
        """
        labels = as_rows(rows)
        unit = normalised(vectors, len(labels), self.dimension)
        if not len(labels):
            return
        self._map.add(labels)
        self._matrix.extend(unit)
        self._swap_when_built()
        if self._graph is not None:
            self._graph.add(labels, unit)
            if self._next_graph is not None:
                self._next_graph.add(labels, unit)
        elif self._needs_graph():
            self._graph = self._build()

    def remove(self, rows: Sequence[int] | Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        slots = self._map.remove(as_rows(rows))
        if not len(slots):
            return
        labels = self._map.rows[slots]
        self._swap_when_built()
        for graph in (self._graph, self._next_graph):
            if graph is not None:
                graph.remove(labels, self._matrix.view()[slots])
        if self._map.dead_count > max(1024, DEAD_SHARE * self._map.slot_count):
            self._drop_dead()
        graph = self._graph
        if graph is not None and self._next_graph is None and graph.tombstones > 1024:
            self._next_graph = self._build() if graph.tombstone_share > DEAD_SHARE else None

    def compact(self) -> None:
        """Drop every trace of removed vectors; hnswlib is rebuilt in the background, and complete after `save`."""
        self._drop_dead()
        if self._graph is not None and self._graph.tombstones:
            self._next_graph = self._build()

    def close(self) -> None:
        """Finish queued changes and end background threads."""
        for graph in (self._graph, self._next_graph):
            if graph is not None:
                graph.close()

    def wait(self) -> None:
        """Block until hnswlib has taken in everything that was added."""
        try:
            if self._graph is not None:
                self._graph.wait()
        except Exception:
            logger.exception("hnswlib failed; searching exactly instead, until the memory is opened again")
            self._graph = None
            self._next_graph = None
            self._approximate = False

    def search(self, vector: ArrayLike, k: int, allowed: Mask | None = None) -> tuple[Rows, Vectors]:
        """Return the rows nearest to a vector, best first.

        Args:
            vector: Shape `(dimension,)`; a zero vector is equally (un)like everything.
            k: How many at most.
            allowed: Mask over rows; None allows all.

        Returns:
            Rows (int64) and cosine similarities (float32), sorted by descending similarity, then by row.

        Raises:
            ValueError: k < 1, or a vector of the wrong shape or with NaN or infinity.
        """
        if k < 1:
            msg = f"k must be at least 1, not {k}"
            raise ValueError(msg)
        query = unit_query(vector, self.dimension)
        mask = None if allowed is None else self._map.allowed_slots(allowed)
        count = len(self) if mask is None else int(np.count_nonzero(mask))
        k = min(k, count)
        if k == 0:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        slots = self._search_graph(query, k, mask, count)
        if slots is None:
            slots = self._scan(query, k, mask, count)
        rows = self._map.rows[slots]
        similarities = self._similarities(slots, query)
        order = np.lexsort((rows, -similarities))[:k]
        return rows[order], similarities[order]

    def similarity(self, vector: ArrayLike, rows: Sequence[int] | Rows) -> Vectors:
        """Return the cosine similarity of a vector to each of the given rows.

        Raises:
            KeyError: A row is not in the index.
        """
        return self._similarities(self._map.held(rows), unit_query(vector, self.dimension))

    def vectors(self, rows: Sequence[int] | Rows) -> Vectors:
        """Return the unit vectors of rows, shape `(n, dimension)`.

        Raises:
            KeyError: A row is not in the index.
        """
        found: Vectors = self._matrix.view()[self._map.held(rows)]
        return found

    def rows(self) -> Rows:
        """Return all rows, in the order of adding."""
        return self._map.live_rows()

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write the index into a folder so that a crash at any instant leaves the old or the new one.

        Args:
            folder: Existing folder.
            stamp: Anything JSON that `load` shall return, such as the journal's version.
        """
        self.wait()
        if self._next_graph is not None:
            self._next_graph.wait()
            self._swap_when_built()
        live = self._map.live
        arrays = {"rows": self._map.live_rows(), "matrix": self._matrix.view()[live]}
        header = {
            "dimension": self.dimension, "space": "cosine", "links": self._links, "count": len(self),
            "ef_construction": self._ef_construction, "stamp": stamp,
        }  # fmt: skip
        graph = self._graph
        if graph is not None:
            arrays["sharing"] = graph.sharing()
        save_cache(folder, "vectors", header, arrays, {} if graph is None else {"hnsw": graph.save})

    def load(self, folder: Path) -> Any:
        """Replace the content by what `save` wrote.

        Returns:
            The stamp given to `save`.

        Raises:
            MemoryFormatError: Something is missing, damaged or does not fit this index.
        """
        header, arrays, files = load_cache(folder, "vectors")
        expected = {"dimension": self.dimension, "space": "cosine", "links": self._links}
        if any(header.get(key) != value for key, value in expected.items()):
            msg = f"the vector cache in {folder} was written with other settings"
            raise MemoryFormatError(msg)
        rows, matrix = as_rows(arrays["rows"]), arrays["matrix"]
        if matrix.shape != (len(rows), self.dimension) or len(rows) != header["count"]:
            msg = f"the vector cache in {folder} is damaged"
            raise MemoryFormatError(msg)
        self._map = RowMap()
        self._map.add(rows)
        self._matrix.replace(matrix)
        self._graph = self._next_graph = None
        if self._needs_graph():
            self._graph = self._load_graph(files["hnsw"], arrays["sharing"]) if "hnsw" in files else self._build()
        return header["stamp"]

    def _load_graph(self, file: Path, sharing: NDArray[np.int64]) -> DistinctGraph:
        graph = self._new_graph()
        try:
            graph.load(file, sharing, self._map.rows, self._matrix.view())
        except RuntimeError as error:
            msg = f"{file} is damaged: {error}"
            raise MemoryFormatError(msg) from error
        return graph

    def _needs_graph(self) -> bool:
        # hnswlib is looked for last: who has few vectors misses nothing without it and is not to be warned.
        return self._approximate and len(self) > self._exact_limit and import_hnswlib() is not None

    def _new_graph(self) -> DistinctGraph:
        return DistinctGraph(self.dimension, links=self._links, ef_construction=self._ef_construction)

    def _build(self) -> DistinctGraph:
        graph = self._new_graph()
        live = self._map.live
        graph.add(self._map.live_rows(), self._matrix.view()[live])
        return graph

    def _swap_when_built(self) -> None:
        if self._next_graph is not None and self._next_graph.idle():
            self._graph, self._next_graph = self._next_graph, None

    def _drop_dead(self) -> None:
        self._matrix.replace(self._matrix.view()[self._map.compact()])

    def _similarities(self, slots: NDArray[np.int64], query: Vectors) -> Vectors:
        # Not `@`: BLAS adds up in an order that depends on how many rows there are, so the same passage would get
        # scores that differ in the last digit from one call to the next; and its threads wait for each other, which
        # takes milliseconds on a busy machine.
        products: Vectors = np.vecdot(self._matrix.view()[slots], query)
        return products.clip(-1.0, 1.0)

    def _search_graph(self, query: Vectors, k: int, mask: Mask | None, count: int) -> NDArray[np.int64] | None:
        """Return candidate slots from hnswlib, or None where an exact scan is better or hnswlib found too few."""
        if self._graph is None or count <= self._exact_limit:
            return None
        wanted = max(100, 2 * k if mask is None else int(2.5 * k * len(self) / count))
        if wanted > WIDEST_SEARCH:
            return None
        self.wait()
        graph = self._graph
        if graph is None:
            return None
        rows = graph.search(query, wanted)
        if rows is None:
            return None
        slots = self._map.slots(rows)
        slots = slots[slots >= 0]
        if mask is not None:
            slots = slots[mask[slots]]
        return slots if len(slots) >= k else None

    def _scan(self, query: Vectors, k: int, mask: Mask | None, count: int) -> NDArray[np.int64]:
        """Return the slots of the k nearest vectors, and of those as near as the last of them."""
        matrix = self._matrix.view()
        if mask is None and self._map.dead_count:
            mask = self._map.live
        slots: NDArray[np.int64] | None = None
        if mask is not None and count < 0.3 * len(matrix):
            slots = np.flatnonzero(mask)
            scores = np.vecdot(matrix[slots], query)
        else:
            scores = np.vecdot(matrix, query)
            if mask is not None:
                scores[~mask] = -np.inf
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        best = np.flatnonzero(scores >= threshold - 1e-5)
        return best if slots is None else slots[best]


def unit_query(vector: ArrayLike, dimension: int) -> Vectors:
    """Return the vector of a question with length 1, or as it is where it is zero, as float32.

    Args:
        vector: Shape `(dimension,)`.
        dimension: Length of the stored vectors.

    Raises:
        ValueError: Wrong shape, NaN or infinity.
    """
    query = np.asarray(vector, dtype=np.float32)
    if query.shape != (dimension,):
        msg = f"expected a vector of length {dimension}, got an array of shape {query.shape}"
        raise ValueError(msg)
    length = np.linalg.norm(query.astype(np.float64))
    if not np.isfinite(length):
        msg = "the query vector has NaN or infinite values"
        raise ValueError(msg)
    unit: Vectors = (query / length).astype(np.float32) if length else query
    return unit


def normalised(vectors: ArrayLike, count: int, dimension: int | None = None) -> Vectors:
    """Return unit vectors as float32.

    Args:
        vectors: Shape `(count, dimension)`.
        count: Expected number of vectors.
        dimension: Expected length; None accepts any.

    Raises:
        ValueError: Wrong shape, NaN, infinity or a zero vector.
    """
    try:
        matrix = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        msg = f"vectors must be {count} lists of numbers of equal length: {error}"
        raise ValueError(msg) from None
    if count == 0 and matrix.size == 0:
        return np.empty((0, dimension or 0), dtype=np.float32)
    if matrix.ndim != 2 or len(matrix) != count or matrix.shape[1] != (dimension or matrix.shape[1]):
        msg = f"expected vectors of shape ({count}, {dimension or 'any'}), got {matrix.shape}"
        raise ValueError(msg)
    # In float64, so that the square of a large finite number is finite, too.
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        kind = "is zero" if lengths[bad[0]] == 0 else "has NaN or infinite values"
        msg = f"vector {bad[0]} {kind}"
        raise ValueError(msg)
    unit: Vectors = (matrix / lengths[:, None]).astype(np.float32)
    return unit
