"""The store: a journal and its caches behind one lock."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.errors import EmbedderMismatchError, MemoryLockedError
from hybridmem_plugins.extraction.model import Extractor
from hybridmem_plugins.memory.caches import Batch, Caches, GraphTier, to_passage
from hybridmem_plugins.memory.embedding import Embedder, check_embedder, fingerprint
from hybridmem_plugins.memory.filters import Filter, compile_filter
from hybridmem_plugins.memory.inspection import CheckReport, check_store, export_passages
from hybridmem_plugins.memory.journal import CACHE_FOLDER, Journal, Snapshot, Transaction
from hybridmem_plugins.memory.lexical import LexicalIndex
from hybridmem_plugins.memory.lock import ReadWriteLock
from hybridmem_plugins.memory.metadata import MetadataIndex
from hybridmem_plugins.memory.preparation import Preparation
from hybridmem_plugins.memory.rows import Mask, Rows, as_rows
from hybridmem_plugins.memory.validation import Entry, check_ids, check_passages
from hybridmem_plugins.memory.vectors import Engine, VectorIndex
from hybridmem_plugins.passage import Passage

logger = logging.getLogger(__name__)

# Caches are written on close and after this many changes (or half of all passages, so that a growing memory writes
# them a number of times that grows with the logarithm of its size).
SAVE_AFTER = 10_000


class MemoryStore:
    """Passages with their vectors, words, metadata and graph, durable and safe to use from many threads.

    Args:
        path: Folder of the memory, made when missing; None keeps everything in memory.
        embedder: Object with `embed_documents` and `embed_query`; None for reading without it, or when all vectors
            are given.
        extractor: Finds the entities of passages; None finds none.
        graph: The relational tier, which the store fills.
        write_timeout: Seconds that a writer waits for another one before it gives up.
        engine: See `VectorIndex`.
        batch_size: Passages embedded and extracted at once.
        read_only: Refuse writing; None finds out from the file's permissions.

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
    ) -> None:
        self.embedder = embedder
        self.extractor = extractor
        self._timeout = write_timeout
        self._batch_size = batch_size
        self._fingerprint: str | None = None
        self._lock = ReadWriteLock()
        self._writer = threading.Lock()
        self._local = threading.local()
        self._closed = False
        self._unsaved = 0
        self._caches = Caches(graph, engine)
        self._journal = Journal(None if path is None else Path(path), read_only=read_only, write_timeout=write_timeout)
        try:
            self._open()
        except BaseException:
            self._closed = True
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
    def graph(self) -> GraphTier:
        """The relational tier."""
        return self._caches.graph

    @property
    def metadata(self) -> MetadataIndex:
        """The metadata tier."""
        return self._caches.metadata

    @property
    def version(self) -> int:
        """Number of changes that the caches stand for; it grows with every change."""
        return self._caches.version

    def __len__(self) -> int:
        return len(self._caches.id_of)

    # --- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[MemoryStore]:
        """Keep writers out and all tiers at one committed state, the newest when entered; may be nested.

        Raises:
            ValueError: The memory is closed.
        """
        if self._snapshot is not None:
            yield self
            return
        with ExitStack() as stack:
            self._local.snapshot = self._enter_level(stack)
            try:
                yield self
            finally:
                self._local.snapshot = None

    def allowed(self, query: Filter | None) -> Mask | None:
        """Return the mask over rows of the passages that a filter allows; None where it allows all.

        A callable is asked about every passage, which is slow (about 10 µs each); a dict takes about a millisecond.

        Raises:
            TypeError: The filter, a list of conditions or an operand has the wrong type.
            ValueError: An operator is unknown, or an operand is not plain JSON.
        """
        if query is None or (isinstance(query, Mapping) and not query):
            return None
        with self.reading():
            if not callable(query):
                return self.metadata.mask(query)
            predicate = compile_filter(query)
            mask = self.metadata.live()
            for row, text in self._read().query("SELECT row, metadata FROM passages"):
                mask[row] = bool(predicate(json.loads(text)))
            return mask

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """Return stored passages, in the order of the rows.

        Raises:
            KeyError: A row is not stored.
        """
        wanted = as_rows(rows).tolist()
        with self.reading():
            found = {record.row: record for record in self._read().records(dict.fromkeys(wanted))}
        return [to_passage(found[row]) for row in wanted]

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the texts of rows, in their order.

        Raises:
            KeyError: A row is not stored.
        """
        wanted = as_rows(rows).tolist()
        with self.reading():
            found = {record.row: record.text for record in self._read().records(dict.fromkeys(wanted))}
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

    def add(self, passages: Sequence[Passage], vectors: ArrayLike | None = None) -> list[str]:
        """Store passages in one step; one whose id is stored already replaces it.

        Everything is checked before anything is stored. A passage that is stored just so stays as it is.

        Args:
            passages: What to store; ids are derived from title and text where they are missing.
            vectors: Shape `(n, dimension)`; None asks the embedder.

        Returns:
            The ids, in order.

        Raises:
            TypeError: Something is no `Passage`, or a field has the wrong type.
            ValueError: An empty text, an id given twice, metadata that is not JSON, bad vectors; or the memory is closed.
            EmbedderMismatchError: The vectors have another length than those stored.
            MemoryLockedError: Another writer was busy for longer than the timeout.
            PermissionError: The memory can only be read.
            OSError: The disk is full.
        """
        entries = check_passages(passages)
        self._check_open()
        if not entries:
            return []
        preparation = Preparation(entries, vectors, self.embedder, self.extractor, self._batch_size)
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
        self._check_open()
        if not checked:
            return []
        with self._writing() as transaction:
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
            ValueError: The filter is empty (which would forget everything) or has an unknown operator.
        """
        if isinstance(query, Mapping) and not query:
            msg = "an empty filter would delete every passage; delete them by id"
            raise ValueError(msg)
        predicate = compile_filter(query)
        self._check_open()
        with self._writing() as transaction:
            lines = transaction.query("SELECT row, id, metadata FROM passages")
            found = {row: identity for row, identity, text in lines if predicate(json.loads(text))}
            if found:
                transaction.delete(list(found))
                self._commit(transaction, list(found))
        return sorted(found.values())

    def compact(self) -> bool:
        """Remove deleted text from the bytes on disk and tombstones from the indexes.

        Returns:
            Whether nothing is left; False where another process that is reading keeps the write-ahead log from being
            emptied (compact again when it has finished).
        """
        self._check_open()
        with self._writing() as transaction:
            transaction.forget_changes()
            self._commit(transaction, [])
        with self._writer_turn():
            self._journal.vacuum()
            with self._exclusive():
                clean = self._journal.checkpoint()
                if self._caches.vectors is not None:
                    self._caches.vectors.compact()
                self._caches.lexical.compact()
                self._caches.metadata.compact()
            self._save_caches()
        return clean

    def check(self) -> CheckReport:
        """Verify the journal and that every tier equals it."""
        with self.reading():
            return check_store(self._journal, self._read(), self._caches)

    def export(self, file: str | Path | IO[str], *, vectors: bool = False) -> int:
        """Write all passages as JSON lines with `id`, `title`, `text` and `metadata`, by id.

        Args:
            file: Path, which is replaced in one step, or an open text file.
            vectors: Whether to add `vector`.

        Returns:
            The number of passages.
        """
        with self.reading():
            return export_passages(self._read(), file, vectors=vectors)

    def close(self) -> None:
        """Write the caches and close the files; a second call does nothing."""
        if self._closed:
            return
        self._refuse_while_reading()
        with self._writer_turn():
            if self._closed:
                return
            # A handful of changes is caught up on opening faster than everything is written.
            if self._unsaved * 100 > len(self):
                self._save_caches()
            with self._lock.write():
                self._closed = True
                if self._caches.vectors is not None:
                    self._caches.vectors.close()
                self._journal.close()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _snapshot(self) -> Snapshot | None:
        return getattr(self._local, "snapshot", None)

    @property
    def _cache_folder(self) -> Path | None:
        return None if self.path is None else self.path / CACHE_FOLDER

    def _read(self) -> Snapshot:
        snapshot = self._snapshot
        if snapshot is None:
            msg = "only inside reading()"
            raise RuntimeError(msg)
        return snapshot

    def _check_open(self) -> None:
        if self._closed:
            msg = "the memory is closed"
            raise ValueError(msg)

    def _refuse_while_reading(self) -> None:
        if self._snapshot is not None:
            msg = "a thread cannot write to a memory while it reads from it (inside a filter or `reading()`)"
            raise RuntimeError(msg)

    def _open(self) -> None:
        with self._journal.snapshot() as snapshot:
            stored = snapshot.meta("embedder")
            if stored is not None and self.embedder is not None:
                self._fingerprint = fingerprint(self.embedder)
                check_embedder(stored, self._fingerprint)
            before = time.monotonic()
            self._caches.open(snapshot, self._cache_folder)
            logger.debug("opened %d passages in %.2f s", len(self), time.monotonic() - before)
            self._unsaved = self._caches.fresh

    def _enter_level(self, stack: ExitStack) -> Snapshot:
        """Take the read lock and a snapshot, with the caches at the same version."""
        with ExitStack() as attempt:
            attempt.enter_context(self._lock.read())
            self._check_open()
            snapshot = attempt.enter_context(self._journal.snapshot())
            if snapshot.version() == self._caches.version:
                stack.push(attempt.pop_all())
                return snapshot
        with ExitStack() as attempt:
            self._lock.acquire_write()
            try:
                self._check_open()
                snapshot = attempt.enter_context(self._journal.snapshot())
                self._unsaved += self._caches.catch_up(snapshot)
            except BaseException:
                self._lock.release_write()
                raise
            self._lock.downgrade()
            stack.callback(self._lock.release_read)
            stack.push(attempt.pop_all())
            return snapshot

    @contextmanager
    def _writer_turn(self) -> Iterator[None]:
        """Keep other writing threads of this process out."""
        if not self._writer.acquire(timeout=self._timeout):
            msg = f"another thread kept writing to this memory for {self._timeout:g} s"
            raise MemoryLockedError(msg)
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep readers out."""
        try:
            self._lock.acquire_write(self._timeout)
        except TimeoutError:
            msg = f"searches kept this memory busy for {self._timeout:g} s"
            raise MemoryLockedError(msg) from None
        try:
            yield
        finally:
            self._lock.release_write()

    @contextmanager
    def _writing(self) -> Iterator[Transaction]:
        """Open a transaction that is rolled back unless `_commit` is called."""
        self._refuse_while_reading()
        with self._writer_turn():
            self._check_open()
            with ExitStack() as stack:
                if self.path is None:  # its only connection shows readers what is not committed yet
                    stack.enter_context(self._exclusive())
                    self._level()
                yield stack.enter_context(self._journal.transaction(self._timeout))
            if self._unsaved > max(SAVE_AFTER, len(self) // 2):
                self._save_caches()

    def _commit(self, transaction: Transaction, removed: Sequence[int], added: _Added | None = None) -> None:
        """Make a transaction permanent and apply it to the caches in one step, as seen by readers."""
        with ExitStack() as stack:
            if self.path is not None:
                stack.enter_context(self._exclusive())
                self._level()
            version = transaction.commit()
            # Should anything go wrong from here on, the journal is right and the caches are made anew from it.
            self._caches.version = -1
            self._caches.remove(removed)
            self._unsaved += len(removed)
            if added is not None:
                self._caches.add(*added)
                self._unsaved += len(added[0])
            self._caches.version = version

    def _level(self) -> None:
        """Bring the caches to what other processes have committed; the caller keeps readers out."""
        with self._journal.snapshot() as snapshot:
            if snapshot.version() != self._caches.version:
                self._unsaved += self._caches.catch_up(snapshot)

    def _store(self, preparation: Preparation) -> list[Entry]:
        """Store prepared passages, or return those that have to be prepared first."""
        with self._writing() as transaction:
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

    def _check_vectors(self, transaction: Transaction, dimension: int) -> None:
        """Compare new vectors with those stored, or note down what the first ones are like."""
        stored = transaction.meta("dimension")
        if stored is None:
            transaction.set_meta("dimension", dimension)
        elif stored != dimension:
            msg = f"this memory holds vectors of {stored} dimensions, not {dimension}"
            raise EmbedderMismatchError(msg)
        if self._fingerprint is None:
            return
        known = transaction.meta("embedder")
        if known is None:
            transaction.set_meta("embedder", self._fingerprint)
        elif known != self._fingerprint:
            check_embedder(known, self._fingerprint)

    def _save_caches(self) -> None:
        """Write the caches; the caller keeps other writers of this process out."""
        folder = self._cache_folder
        if folder is None or self.read_only:
            return
        try:
            # The transaction writes nothing: it keeps other processes from saving at the same time.
            with self._journal.transaction(1.0) as transaction, self._lock.read():
                folder.mkdir(exist_ok=True)
                self._caches.save(folder, transaction.meta("memory"))
            self._unsaved = 0
        except MemoryLockedError:
            logger.info("the caches of %s are not saved: another process is writing", self.path)
        except OSError as error:
            logger.warning("the caches of %s could not be saved (nothing is lost): %s", self.path, error)


_Added = tuple[list[int], Batch, NDArray[np.float32]]


def _storable(ids: Sequence[str]) -> list[str]:
    """Return the ids that can be stored at all; SQLite refuses to look for others."""
    return [identity for identity in ids if not any("\ud800" <= character <= "\udfff" for character in identity)]
