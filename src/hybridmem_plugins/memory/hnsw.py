"""hnswlib behind a small class that cannot meet its traps: growth, deletion, threads, too small results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import require
from hybridmem_plugins.memory.rows import Rows
from hybridmem_plugins.memory.workers import Workers

Vectors = NDArray[np.float32]

_MISSING = (
    "hnswlib is not installed, so vector search scans every vector (exact, but its time grows with the number of "
    "passages: tens of milliseconds a search beyond about 50,000). For fast search: "
    "pip install 'hybridmem-plugins[hnsw]' (needs a C++ compiler)"
)
_warned = False


def import_hnswlib() -> ModuleType | None:
    """Return hnswlib, or None after having warned, once in a process, about what is lost without it."""
    global _warned
    try:
        return require("hnswlib", "hnsw")
    except ImportError:
        if not _warned:
            _warned = True
            warnings.warn(_MISSING, RuntimeWarning, stacklevel=4)
        return None


class HnswGraph:
    """An approximate nearest-neighbour graph over unit vectors (Malkov and Yashunin, 2016).

    Changes run one after another in a background thread (hnswlib releases the interpreter lock), since hnswlib does
    not allow searching while adding; `search` waits for them. They are applied with one thread in the order given, so
    the same changes always build the same graph.

    Args:
        dimension: Length of the vectors.
        links: Links of a node on the upper levels (hnswlib's M); the lowest level has twice as many.
        ef_construction: Candidates considered when a node is linked.
    """

    def __init__(self, dimension: int, *, links: int, ef_construction: int) -> None:
        self._library = require("hnswlib", "hnsw")
        self._dimension = dimension
        self._links = links
        self._ef_construction = ef_construction
        self._index: Any = None
        self._worker = Workers(1, "hybridmem-hnsw")
        self._last: Future[None] | None = None
        self._error: Exception | None = None
        self._queued = self._made = 0  # changes
        self._process = os.getpid()
        self.live = 0
        self.dead = 0  # tombstones: still walked through, never returned

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Queue unit vectors under labels that were never used before."""
        self._notice_fork()
        self.live += len(rows)
        self._queued += 1
        self._last = self._worker.submit(self._guarded, self._add, rows, vectors)

    def remove(self, rows: Rows) -> None:
        """Queue the removal of labels that are in the graph."""
        self._notice_fork()
        self.live -= len(rows)
        self.dead += len(rows)
        self._queued += 1
        self._last = self._worker.submit(self._guarded, self._remove, rows)

    def idle(self) -> bool:
        """Return whether every queued change has been made."""
        return self._made == self._queued

    def wait(self) -> None:
        """Block until every queued change has been made.

        Raises:
            RuntimeError: hnswlib refused a change (out of memory, for example), or the process forked during one; the
                graph must be thrown away.
        """
        self._notice_fork()
        last = self._last
        if last is not None:
            last.result()
        if self._error is not None:
            msg = "hnswlib failed"
            raise RuntimeError(msg) from self._error

    def close(self) -> None:
        """Finish queued changes and end the background thread; searching stays possible."""
        self._worker.shutdown()

    def search(self, vector: Vectors, k: int) -> Rows | None:
        """Return the labels of about the k nearest vectors, or None where hnswlib cannot find that many."""
        self.wait()
        try:
            # hnswlib keeps max(ef, k) candidates: asking for more neighbours widens the search without the shared
            # setting `ef`, which other threads are reading.
            labels, _ = self._index.knn_query(vector, k=k, num_threads=1)
        except RuntimeError:  # "Cannot return the results in a contiguous 2D array": fewer than k are reachable.
            return None
        found: Rows = labels[0].astype(np.int64)
        return found

    def save(self, file: Path) -> None:
        """Write hnswlib's own format, which carries no check of dimension, space or completeness."""
        self.wait()
        self._index.save_index(str(file))

    def load(self, file: Path, live: int) -> None:
        """Read what `save` wrote, of which `live` labels are not removed; the caller has checked the file."""
        index = self._library.Index("ip", self._dimension)
        index.load_index(str(file), max_elements=0)
        self._index = index
        self.live = live
        self.dead = index.element_count - live

    def _notice_fork(self) -> None:
        """Give up what was queued when the process forked: no thread of this one will make the change."""
        if self._process != os.getpid():
            # The last future is not asked: its lock may have been held when the process forked.
            self._process, self._last = os.getpid(), None
            if not self.idle():
                self._error = RuntimeError("the process forked while hnswlib was at work")
                self._made = self._queued

    def _guarded(self, change: Callable[..., None], *arguments: Any) -> None:
        if self._error is None:
            try:
                change(*arguments)
            except Exception as error:  # told to whoever waits next
                self._error = error
        self._made += 1

    def _add(self, rows: Rows, vectors: Vectors) -> None:
        if self._index is None:
            index = self._library.Index("ip", self._dimension)
            index.init_index(
                max_elements=max(1024, len(rows)), M=self._links, ef_construction=self._ef_construction, random_seed=7
            )
            self._index = index
        needed = self._index.element_count + len(rows)
        if needed > self._index.max_elements:
            self._index.resize_index(max(needed, int(self._index.max_elements * 1.25)))
        self._index.add_items(vectors, rows, num_threads=1)

    def _remove(self, rows: Rows) -> None:
        for row in rows.tolist():
            self._index.mark_deleted(row)
