"""The indexes over the journal, kept level with it: vectors, words, metadata and graph."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.cachefile import discard_cache
from hybridmem_plugins.memory.garbage import collection_paused
from hybridmem_plugins.memory.lexical import LexicalIndex
from hybridmem_plugins.memory.metadata import MetadataIndex
from hybridmem_plugins.memory.rows import Rows, as_rows, difference
from hybridmem_plugins.memory.snapshot import Record, Snapshot
from hybridmem_plugins.memory.vectors import Engine, VectorIndex
from hybridmem_plugins.passage import Passage

logger = logging.getLogger(__name__)

BATCH = 4096

_FILES = {"vector index": "vectors", "word index": "lexical", "metadata index": "metadata", "graph": "graph"}


class _Tier(Protocol):
    """What all tiers have that are made from the texts."""

    def rows(self) -> Rows:
        """Return the rows of all passages."""
        ...

    def remove(self, rows: Sequence[int]) -> None:
        """Forget passages."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write everything, so that a crash at any instant leaves the old or the new state."""
        ...

    def load(self, folder: Path) -> Any:
        """Read what `save` wrote and return the stamp; MemoryFormatError where something is missing or damaged."""
        ...


class GraphTier(_Tier, Protocol):
    """What the relational tier does for the store."""

    find_phrases: Callable[[Sequence[Sequence[str]]], Sequence[Iterable[int]]] | None

    def add(
        self,
        rows: Sequence[int],
        passages: Sequence[Passage],
        extractions: Sequence[Extraction],
        tokens: Sequence[list[str]],
    ) -> None:
        """Take in new passages."""
        ...

    def bulk(self) -> AbstractContextManager[None]:
        """Take in many passages at once, the graph being empty."""
        ...


@dataclass(slots=True)
class Batch:
    """Passages with everything that the tiers want to know about them."""

    passages: list[Passage] = field(default_factory=list)
    extractions: list[Extraction] = field(default_factory=list)
    tokens: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Lacking:
    """Rows that each tier lacks."""

    words: set[int]
    metadata: set[int]
    graph: set[int]


def full_text(title: str | None, text: str) -> str:
    """Return what is embedded and tokenised of a passage."""
    return f"{title}\n{text}" if title else text


def to_passage(record: Record) -> Passage:
    """Return a stored passage as its user knows it."""
    return Passage(text=record.text, title=record.title, id=record.id, metadata=json.loads(record.metadata))


def _metadata(records: Sequence[Record]) -> list[dict[str, Any]]:
    # One call of the JSON reader for many small texts takes half the time.
    read: list[dict[str, Any]] = json.loads(f"[{','.join([record.metadata for record in records])}]")
    return read


def _fits(stamp: Any, snapshot: Snapshot) -> bool:
    return bool(stamp["memory"] == snapshot.meta("memory") and stamp["version"] <= snapshot.version())


class Caches:
    """All tiers, and the journal's version that they stand for; -1 where they must be made anew.

    Args:
        graph: The relational tier.
        engine: See `VectorIndex`.
        make_vectors: Makes the vector tier for a length of vectors; None makes a `VectorIndex`.
    """

    def __init__(self, graph: GraphTier, engine: Engine, make_vectors: Callable[[int], Any] | None = None) -> None:
        self.graph = graph
        graph.find_phrases = self._rows_with_phrases
        self._engine = engine
        self._make_vectors = make_vectors
        self.vectors: VectorIndex | None = None
        self.lexical: LexicalIndex = LexicalIndex()
        self.metadata = MetadataIndex()
        self.id_of: dict[int, str] = {}
        self.row_of: dict[str, int] = {}
        self.version = -1
        self.fresh = 0  # rows that `open` had to take from the journal
        self._strange: dict[str, Any] = {}  # files that `open` found not to fit, with their stamps

    def add(self, rows: Sequence[int], batch: Batch, vectors: NDArray[np.float32]) -> None:
        """Take in new passages; the vector tier goes first since hnswlib works on in the background."""
        self.vector_index(vectors.shape[1]).add(rows, vectors)
        self.lexical.add(rows, batch.tokens)
        self._add_rest(rows, batch)

    def remove(self, rows: Sequence[int]) -> None:
        """Forget passages in every tier; unknown rows are ignored."""
        known = [row for row in rows if row in self.id_of]
        if not known:
            return
        if self.vectors is not None:
            self.vectors.remove(known)
        self.lexical.remove(known)
        self.metadata.remove(known)
        self.graph.remove(known)
        for row in known:
            identity = self.id_of.pop(row)
            if self.row_of.get(identity) == row:
                del self.row_of[identity]

    def vector_index(self, dimension: int) -> VectorIndex:
        """Return the vector tier, made when the dimension is known."""
        if self.vectors is None:
            make = self._make_vectors
            self.vectors = VectorIndex(dimension, engine=self._engine) if make is None else make(dimension)
        return self.vectors

    def clear(self) -> None:
        """Forget everything."""
        self.graph.clear()
        if self.vectors is not None:
            self.vectors.close()
        self.vectors = None
        self.lexical = LexicalIndex()
        self.metadata = MetadataIndex()
        self.id_of = {}
        self.row_of = {}
        self.version = -1

    def open(self, snapshot: Snapshot, folder: Path | None) -> None:
        """Fill all tiers: from files where these are good, else from the journal."""
        self.clear()
        self._name(snapshot.ids())
        live = as_rows(list(self.id_of))
        dimension = snapshot.meta("dimension")
        with collection_paused():
            if dimension is not None:
                self.vectors = self._open_vectors(snapshot, folder, live, int(dimension))
            for tier, what in zip(self._tiers, ("word index", "metadata index", "graph"), strict=True):
                if folder is not None and not self._load(tier, snapshot, folder, what, len(live)):
                    tier.clear()
                tier.remove(difference(tier.rows(), live).tolist())
            self._fill(snapshot, live)
        self.version = snapshot.version()

    def discard_strange(self, snapshot: Snapshot, folder: Path) -> None:
        """Delete files that `open` found to be of another memory, or of a state that is later than the newest.

        They would seem to fit once other changes have led to their version.

        Args:
            snapshot: Begun after `open`: another process may have changed the memory and saved it meanwhile.
            folder: What `open` read.
        """
        for name, stamp in self._strange.items():
            if not _fits(stamp, snapshot):
                discard_cache(folder, name)

    def catch_up(self, snapshot: Snapshot) -> int:
        """Apply what other processes committed up to a snapshot.

        Returns:
            The number of passages that came or went.
        """
        if self.version < 0:
            self.open(snapshot, None)
            return len(self.id_of)
        compacted = int(snapshot.meta("changes_since") or 0) >= self.version
        changes = snapshot.changes(self.version)
        if changes is None:  # compacted in between; a row never changes what it holds, so comparing rows is enough
            live = set(snapshot.rows())
            removed = [row for row in self.id_of if row not in live]
            added = sorted(live.difference(self.id_of))
        else:
            gone = {row for row, went in changes if went}
            removed = sorted(gone)
            added = [row for row, went in changes if not went and row not in gone]
        self.version = -1  # until everything has been applied
        self.remove(removed)
        dimension = snapshot.meta("dimension")
        for start in range(0, len(added), BATCH):
            rows = added[start : start + BATCH]
            self.vector_index(int(dimension)).add(rows, snapshot.vectors(rows, int(dimension)))
            records = list(snapshot.full_records(rows))
            self._add_records(records)
            self._name([(record.row, record.id) for record in records])
        if compacted:  # what these indexes still hold of removed passages would come back with the next saving
            self.compact()
        self.version = snapshot.version()
        return len(removed) + len(added)

    def compact(self) -> None:
        """Drop every trace of removed passages; hnswlib's part is complete after `save`."""
        if self.vectors is not None:
            self.vectors.compact()
        self.lexical.compact()
        self.metadata.compact()

    def close(self) -> None:
        """End background work."""
        if self.vectors is not None:
            self.vectors.close()

    def save(self, folder: Path, memory: str) -> None:
        """Write all tiers."""
        stamp = {"memory": memory, "version": self.version}
        if self.vectors is not None:
            self.vectors.save(folder, stamp)
        for tier in self._tiers:
            tier.save(folder, stamp)

    @property
    def _tiers(self) -> tuple[_Tier, _Tier, _Tier]:
        """The tiers that are made from the texts."""
        return (self.lexical, self.metadata, self.graph)

    def _rows_with_phrases(self, phrases: Sequence[Sequence[str]]) -> list[list[int]]:
        return [rows.tolist() for rows in self.lexical.rows_with_phrases(phrases)]

    def _fill(self, snapshot: Snapshot, live: Rows) -> None:
        """Take from the journal what the files of the words, metadata and graph lack."""
        if len(difference(live, self.graph.rows())) * 4 > len(live):
            self.graph.clear()  # all at once is faster
        lacking = _Lacking(*(set(difference(live, tier.rows()).tolist()) for tier in self._tiers))
        missing = sorted(lacking.words | lacking.metadata | lacking.graph)
        self.fresh = max(self.fresh, len(missing))
        if len(missing) < len(live):
            snapshot.verify()
        with nullcontext() if len(self.graph.rows()) else self.graph.bulk():
            for start in range(0, len(missing), BATCH):
                self._add_records(list(snapshot.full_records(missing[start : start + BATCH])), lacking)

    def _add_records(self, records: Sequence[Record], lacking: _Lacking | None = None) -> None:
        """Take in stored passages whose vectors are in already.

        Args:
            records: What to take in.
            lacking: Which tier lacks which of them; None where all lack all.
        """
        new = [r for r in records if lacking is None or r.row in lacking.words]
        self.lexical.add([record.row for record in new], [words(full_text(r.title, r.text)) for r in new])
        new = [r for r in records if lacking is None or r.row in lacking.metadata]
        self.metadata.add([record.row for record in new], _metadata(new))
        new = [r for r in records if lacking is None or r.row in lacking.graph]
        rows = [record.row for record in new]
        passages = [Passage(r.text, r.title, r.id, m) for r, m in zip(new, _metadata(new), strict=True)]
        extractions = [Extraction.from_json(record.extraction) for record in new]
        self.graph.add(rows, passages, extractions, self.lexical.words(rows))

    def _add_rest(self, rows: Sequence[int], batch: Batch) -> None:
        self.metadata.add(rows, [passage.metadata for passage in batch.passages])
        self.graph.add(rows, batch.passages, batch.extractions, batch.tokens)
        self._name([(row, str(passage.id)) for row, passage in zip(rows, batch.passages, strict=True)])

    def _name(self, ids: Sequence[tuple[int, str]]) -> None:
        self.id_of.update(ids)
        self.row_of.update((identity, row) for row, identity in ids)

    def _open_vectors(self, snapshot: Snapshot, folder: Path | None, live: Rows, dimension: int) -> VectorIndex:
        if self._make_vectors is not None:
            return self.vector_index(dimension)
        index = VectorIndex(dimension, engine=self._engine)
        if folder is not None and not self._load(index, snapshot, folder, "vector index", len(live)):
            index = VectorIndex(dimension, engine=self._engine)
        index.remove(difference(index.rows(), live))
        missing = difference(live, index.rows()).tolist()
        self.fresh = len(missing)
        for start in range(0, len(missing), BATCH):
            rows = missing[start : start + BATCH]
            index.add(rows, snapshot.vectors(rows, dimension))
        return index

    def _load(self, index: VectorIndex | _Tier, snapshot: Snapshot, folder: Path, what: str, passages: int) -> bool:
        """Read one tier's files; on failure say that it is made anew from the journal."""
        reason = "it belongs to another memory or to a later state of this one"
        try:
            stamp: Any = index.load(folder)
            if _fits(stamp, snapshot):
                return True
            self._strange[_FILES[what]] = stamp
        except (MemoryFormatError, KeyError, TypeError) as error:
            reason = str(error)
        if passages:
            logger.warning("the %s is rebuilt from the journal (%d passages): %s", what, passages, reason)
        return False
