"""The store: a journal and its caches behind one lock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.memory.caches import Caches, GraphTier, to_passage
from hybridmem_plugins.memory.coordinator import Added, Coordinator
from hybridmem_plugins.memory.embedding import Embedder, check_embedder, check_vectors, fingerprint
from hybridmem_plugins.memory.filters import Filter, compile_filter
from hybridmem_plugins.memory.following import FilteredMask, Follower, Following, VectorMaker
from hybridmem_plugins.memory.garbage import collection_paused
from hybridmem_plugins.memory.inspection import CheckReport, check_store, export_passages
from hybridmem_plugins.memory.journal import Journal
from hybridmem_plugins.memory.lexical import LexicalIndex
from hybridmem_plugins.memory.metadata import MetadataIndex
from hybridmem_plugins.memory.preparation import Preparation
from hybridmem_plugins.memory.rows import Mask, Rows, as_rows
from hybridmem_plugins.memory.snapshot import NewRecord, Transaction
from hybridmem_plugins.memory.validation import Entry, check_deleting, check_ids, check_passages
from hybridmem_plugins.memory.vectors import Engine, VectorIndex
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.sharing import Shared


class MemoryStore(Shared):
    """Passages with their vectors, words, metadata and graph, durable and safe to use from many threads.

    Args:
        path: Folder of the memory, made when missing; None keeps everything in memory.
        embedder: Object with `embed_documents` and `embed_query`; None for reading without it, or when all vectors
            are given.
        extractor: Finds the entities of passages; None finds none.
        graph: The relational tier, which the store fills; a `Follower` lies in a database.
        write_timeout: Seconds that a writer waits for another one before it gives up.
        engine: See `VectorIndex`.
        batch_size: Passages embedded and extracted at once.
        read_only: Refuse writing; None finds out from the file's permissions.
        vectors: Makes a vector tier that lies in a database (see `hybridmem_plugins.engines.vectors`); None holds the
            vectors in memory.

    Raises:
        MemoryFormatError: The folder is no memory, is damaged, or was written by a newer version.
        EmbedderMismatchError: The memory was made with another embedder.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        embedder: Embedder | None = None,
        extractor: Extractor | None = None,
        graph: GraphTier,
        write_timeout: float = 30.0,
        engine: Engine = "auto",
        batch_size: int = 512,
        read_only: bool | None = None,
        vectors: VectorMaker | None = None,
    ) -> None:
        self.embedder = embedder
        self.extractor = extractor
        self._batch_size = batch_size
        self._fingerprint: str | None = None
        self._caches = Caches(graph, engine, None if vectors is None else partial(self._make_vectors, vectors))
        self._journal = Journal(None if path is None else Path(path), read_only=read_only, write_timeout=write_timeout)
        self._following: list[Following] = []
        self._coordinator = Coordinator(self._journal, self._caches, write_timeout)
        try:
            self._check_embedder()
            self._follow(vectors, graph)
        except BaseException:
            self._coordinator.closed = True
            self._journal.close()
            raise

    # --- the tiers, to be used inside `reading()` ----------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Folder of the memory; None where there is none."""
        return self._journal.folder

    @property
    def read_only(self) -> bool:
        """Whether writing is refused."""
        return self._journal.read_only

    @property
    def vectors(self) -> VectorIndex | None:
        """The semantic tier; None until the first passage was stored."""
        return self._caches.vectors

    @property
    def lexical(self) -> LexicalIndex:
        """The lexical tier."""
        return self._caches.lexical

    @property
    def graph(self) -> Any:
        """The relational tier, which was given."""
        return self._caches.graph

    def networkx(self) -> Any:
        """Return the knowledge graph as a read-only `networkx.MultiDiGraph` that follows every later change."""
        with self.reading():  # takes in what other processes have changed
            return self.graph.view

    @property
    def metadata(self) -> MetadataIndex:
        """The metadata tier."""
        return self._caches.metadata

    @property
    def version(self) -> int:
        """Number of changes that the caches stand for; it grows with every change."""
        return self._caches.version

    def __len__(self) -> int:
        with self.reading():
            return len(self._caches.id_of)

    # --- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[MemoryStore]:
        """Keep writers out and all tiers at one committed state, the newest when entered; may be nested.

        Raises:
            ValueError: The memory is closed.
        """
        with self._coordinator.reading():
            yield self

    def steady(self) -> AbstractContextManager[object]:
        """Mark a question; an engine reads one committed state in it, this store does so where `reading` says."""
        return nullcontext()

    def expect(
        self, vector: ArrayLike, terms: Sequence[str], k: int, rows: Sequence[int], allowed: Mask | None
    ) -> None:
        """Do nothing: everything is at hand. An engine reads here, in one round trip, what a question will ask for."""

    def permitted(self, rows: Sequence[int], allowed: Mask | None) -> list[int]:
        """Return the rows that a filter allows, in order."""
        return [row for row in rows if allowed is None or allowed[row]]

    def matching(self, query: Filter | None) -> list[int]:
        """Return the rows that a filter allows, ascending."""
        mask = self.allowed(query)
        rows: list[int] = np.flatnonzero(self.metadata.live() if mask is None else mask).tolist()
        return rows

    def records(self) -> Iterator[list[tuple[NewRecord, int]]]:
        """Yield everything that is stored, in batches of passages with their rows, by ascending row."""
        with self.reading(), self._journal.snapshot() as snapshot:
            for batch in snapshot.batches(1000):
                vectors = snapshot.vector_bytes([record.row for record in batch])
                yield [
                    (NewRecord(r.id, r.title, r.text, r.metadata, r.extraction, vectors[r.row]), r.row) for r in batch
                ]

    def load(self, batch: Sequence[NewRecord]) -> None:
        """Store passages with the vectors and extractions that another memory holds; those stored just so stay.

        Raises:
            EmbedderMismatchError: The vectors have another length than those stored.
        """
        self._store(Preparation.of_records(batch))

    def embedder_known(self) -> str | None:
        """Return the fingerprint of the embedder that made the vectors."""
        with self._journal.snapshot() as snapshot:
            known: str | None = snapshot.meta("embedder")
        return known

    def set_embedder(self, known: str | None) -> None:
        """Note down which embedder made the vectors that `load` brings."""
        self._fingerprint = known

    def allowed(self, query: Filter | None) -> Mask | None:
        """Return the mask over rows of the passages that a filter allows; None where it allows all.

        A callable is asked about every passage, which is slow (about 10 µs each); a dict takes about a millisecond.

        Raises:
            TypeError: The filter, a list of conditions or an operand has the wrong type.
            ValueError: An operator is unknown, or an operand is not plain JSON.
        """
        if query is None or (isinstance(query, Mapping) and not query):
            return None
        with self._coordinator.reading() as snapshot:
            if not callable(query):
                mask = self.metadata.mask(query)
                return FilteredMask.of(mask, query) if self._following else mask
            predicate = compile_filter(query)
            mask = self.metadata.live()
            for row, text in snapshot.query("SELECT row, metadata FROM passages"):
                mask[row] = bool(predicate(json.loads(text)))
            return mask

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """Return stored passages, in the order of the rows.

        Raises:
            KeyError: A row is not stored.
        """
        wanted = as_rows(rows).tolist()
        with self._coordinator.reading() as snapshot:
            found = {record.row: record for record in snapshot.records(dict.fromkeys(wanted))}
        return [to_passage(found[row]) for row in wanted]

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the texts of rows, in their order.

        Raises:
            KeyError: A row is not stored.
        """
        wanted = as_rows(rows).tolist()
        with self._coordinator.reading() as snapshot:
            found = {record.row: record.text for record in snapshot.records(dict.fromkeys(wanted))}
        return [found[row] for row in wanted]

    def rows_of(self, ids: Sequence[str]) -> list[int | None]:
        """Return the row of each id, None for unknown ids."""
        checked = check_ids(ids)
        with self.reading():
            return [self._caches.row_of.get(identity) for identity in checked]

    def ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the id of each row.

        Raises:
            KeyError: A row is not stored.
        """
        with self.reading():
            return [self._caches.id_of[row] for row in as_rows(rows).tolist()]

    # --- writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        passages: Sequence[Passage],
        vectors: ArrayLike | None = None,
        extractions: Sequence[Extraction] | None = None,
    ) -> list[str]:
        """Store passages in one step; one whose id is stored already replaces it.

        Everything is checked before anything is stored. A passage that is stored just so stays as it is.

        Args:
            passages: What to store; ids are derived from title and text where they are missing.
            vectors: Shape `(n, dimension)`; None asks the embedder.
            extractions: What was read in each passage; None asks the extractor.

        Returns:
            The ids, in order.

        Raises:
            TypeError: Something is no `Passage`, or a field has the wrong type.
            ValueError: An empty text, an id given twice, metadata that is not JSON or bad vectors; or a closed memory.
            EmbedderMismatchError: The vectors have another length than those stored.
            MemoryLockedError: Another writer was busy for longer than the timeout.
            PermissionError: The memory can only be read.
            OSError: The disk is full.
        """
        entries = check_passages(passages)
        self._coordinator.check_open()
        if not entries:
            return []
        preparation = Preparation(entries, vectors, self.embedder, self.extractor, self._batch_size, extractions)
        with self._journal.snapshot() as snapshot:
            missing = preparation.missing(snapshot)
        if missing and self.embedder is not None and self._fingerprint is None:
            self._fingerprint = fingerprint(self.embedder)
        while missing:
            # Embedding and extraction may take long: nobody waits for them, so it has to be looked at again whether
            # another process has changed one of these passages meanwhile.
            preparation.prepare(missing)
            missing = self._store(preparation)
        return [entry.id for entry in entries]

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget passages by id, with their vectors, entities and edges.

        Returns:
            The ids that were stored; others are ignored.
        """
        checked = list(dict.fromkeys(check_ids(ids)))
        self._coordinator.check_open()
        if not checked:
            return []
        with self._coordinator.writing() as transaction:
            found = transaction.records_by_id(_storable(checked))
            if found:
                transaction.delete([record.row for record in found.values()])
                self._commit(transaction, [record.row for record in found.values()])
        return [identity for identity in checked if identity in found]

    def delete_where(self, query: Filter) -> list[str]:
        """Forget the passages that a filter allows.

        Returns:
            Their ids, sorted.

        Raises:
            ValueError: The filter asks for nothing, as `{}` does (which would forget everything), or has an unknown
                operator.
        """
        check_deleting(query)
        self._coordinator.check_open()
        with self._coordinator.writing() as transaction:
            if callable(query):
                lines = transaction.query("SELECT row, id, metadata FROM passages")
                found = {row: identity for row, identity, text in lines if query(json.loads(text))}
            else:
                self._coordinator.level()
                rows = np.flatnonzero(self.metadata.mask(query)).tolist()
                found = {row: self._caches.id_of[row] for row in rows}
            if found:
                transaction.delete(list(found))
                self._commit(transaction, list(found))
        return sorted(found.values())

    def compact(self) -> bool:
        """Remove deleted text from the bytes on disk and tombstones from the indexes.

        Returns:
            Whether nothing is left; False where another process that is reading keeps the write-ahead log from being
            emptied, or the indexes could not be written (compact again when it has finished).
        """
        return self._coordinator.compact()

    def check(self) -> CheckReport:
        """Verify the journal and that every tier equals it."""
        with self._coordinator.reading() as snapshot:
            return check_store(self._journal, snapshot, self._caches)

    def export(self, file: str | Path | IO[str], *, vectors: bool = False) -> int:
        """Write all passages as JSON lines with `id`, `title`, `text` and `metadata`, by id.

        Args:
            file: Path, which is replaced in one step (a link is written through, a pipe or device written into), or
                an open text file.
            vectors: Whether to add `vector`.

        Returns:
            The number of passages.
        """
        with self._coordinator.reading() as snapshot:
            return export_passages(snapshot, file, vectors=vectors)

    def close(self) -> None:
        """Write the caches and close the files; a second call does nothing."""
        self._coordinator.close()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _check_embedder(self) -> None:
        """Refuse another embedder than the one that made the stored vectors."""
        with self._journal.snapshot() as snapshot:
            stored = snapshot.meta("embedder")
        if stored is not None and self.embedder is not None:
            self._fingerprint = fingerprint(self.embedder)
            check_embedder(stored, self._fingerprint)

    def _store(self, preparation: Preparation) -> list[Entry]:
        """Store prepared passages, or return those that have to be prepared first."""
        with self._coordinator.writing() as transaction, collection_paused():
            changed = preparation.changed(transaction)
            missing = preparation.unprepared(changed)
            if missing or not changed:
                return missing
            self._check_vectors(transaction, preparation.dimension)
            records, batch, vectors = preparation.take(changed)
            removed = [row for _, row in changed if row is not None]
            transaction.delete(removed)
            rows = transaction.insert(records)
            self._commit(transaction, removed, (rows, batch, vectors))
        return []

    def _commit(self, transaction: Transaction, removed: list[int], added: Added | None = None) -> None:
        if self._following:
            self._coordinator.level()
        for following in self._following:
            following.before(transaction, removed, added)
        self._coordinator.commit(transaction, removed, added)
        for following in self._following:
            following.after()

    def _follow(self, vectors: VectorMaker | None, graph: GraphTier) -> None:
        """Open the tiers, and bring the databases among them level with the journal."""
        if isinstance(graph, Follower):
            with self._journal.snapshot() as snapshot:
                graph.bind(snapshot.meta("memory"))
            self._following.append(Following("graph", graph.name, self._journal, lambda _: graph))
        if vectors is not None:
            self._following.append(Following("vectors", vectors.name, self._journal, self._vectors_for))
        self._coordinator.open()
        for following in self._following:
            following.open()

    def _vectors_for(self, dimension: int | None) -> Any:
        return self._caches.vectors if dimension is None else self._caches.vector_index(dimension)

    def _make_vectors(self, make: VectorMaker, dimension: int) -> Any:
        def read(rows: Sequence[int]) -> dict[int, bytes]:
            with self._coordinator.reading() as snapshot:
                return snapshot.vector_bytes(rows)

        with self._journal.snapshot() as snapshot:
            memory = snapshot.meta("memory")
        return make(memory, dimension, read, lambda: self._caches.lexical.rows())

    def _check_vectors(self, transaction: Transaction, dimension: int) -> None:
        """Compare new vectors with those stored, or note down what the first ones are like."""
        stored, known = transaction.meta("dimension"), transaction.meta("embedder")
        check_vectors(stored, known, dimension, self._fingerprint)
        if stored is None:
            transaction.set_meta("dimension", dimension)
        if known is None and self._fingerprint is not None:
            transaction.set_meta("embedder", self._fingerprint)


def _storable(ids: Sequence[str]) -> list[str]:
    """Return the ids that can be stored at all; SQLite refuses to look for others."""
    return [identity for identity in ids if not any("\ud800" <= character <= "\udfff" for character in identity)]
