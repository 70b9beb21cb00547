"""Who may read and write when: the locks around a journal and its caches, and how these are kept level."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError, MemoryLockedError
from hybridmem_plugins.memory.caches import Batch, Caches
from hybridmem_plugins.memory.journal import CACHE_FOLDER, Journal
from hybridmem_plugins.memory.lock import ReadWriteLock
from hybridmem_plugins.memory.snapshot import Snapshot, Transaction

logger = logging.getLogger(__name__)

# Caches are written on close and after this many changes (or three quarters of all passages, so that a growing memory
# writes them whenever it has become four times as large).
SAVE_AFTER = 10_000

_coordinators: WeakSet[Coordinator] = WeakSet()

Added = tuple[list[int], Batch, NDArray[np.float32]]


class Coordinator:
    """Readers side by side, writers one after another, and nobody sees half of a change.

    A writing thread first takes its turn among the threads, then the journal's write lock among the processes, and only
    for the commit and its application to the caches the whole read-write lock.

    Args:
        journal: The truth.
        caches: Not open yet; `open` fills them.
        timeout: Seconds that a writer waits before it gives up.
    """

    def __init__(self, journal: Journal, caches: Caches, timeout: float) -> None:
        self.journal = journal
        self.caches = caches
        self._timeout = timeout
        self._lock = ReadWriteLock()
        self._writer = threading.Lock()
        self._local = threading.local()
        self._unsaved = 0
        self.closed = False
        _coordinators.add(self)

    @property
    def snapshot(self) -> Snapshot | None:
        """The journal's state that this thread is reading, inside `reading`."""
        return getattr(self._local, "snapshot", None)

    def open(self) -> None:
        """Fill the caches."""
        folder = self._cache_folder
        with self.journal.snapshot() as snapshot:
            self.caches.open(snapshot, folder)
        self._unsaved = self.caches.fresh
        if folder is not None and not self.journal.read_only:
            with self.journal.snapshot() as snapshot:
                self.caches.discard_strange(snapshot, folder)

    def check_open(self) -> None:
        """Raise ValueError after `close`."""
        if self.closed:
            msg = "the memory is closed"
            raise ValueError(msg)

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        """Keep writers out and all tiers at one committed state, the newest when entered; may be nested."""
        self._refuse_while_writing()
        known = self.snapshot
        if known is not None:
            yield known
            return
        with self._lock.read():
            self.check_open()
            with self.journal.snapshot() as snapshot:
                if snapshot.version() == self.caches.version:
                    yield from self._reading(snapshot)
                    return
        with ExitStack() as stack:
            yield from self._reading(self._enter_level(stack))

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Open a transaction that is rolled back unless `commit` is called."""
        self._refuse_while_reading()
        self._refuse_while_writing()
        with self._writer_turn():
            with ExitStack() as stack:
                if self.journal.file is None:  # its only connection shows readers what is not committed yet
                    stack.enter_context(self._exclusive())
                    self._level()
                transaction = stack.enter_context(self.journal.transaction(self._timeout))
                self._local.writing = True
                try:
                    yield transaction
                finally:
                    self._local.writing = False
            if self._unsaved > max(SAVE_AFTER, 3 * len(self.caches.id_of) // 4):
                self._save_caches()

    def commit(self, transaction: Transaction, removed: Sequence[int], added: Added | None = None) -> None:
        """Make a transaction permanent and apply it to the caches in one step, as seen by readers."""
        with ExitStack() as stack:
            if self.journal.file is not None:
                stack.enter_context(self._exclusive())
                self._level()
            version = transaction.commit()
            # Should anything go wrong from here on, the journal is right and the caches are made anew from it.
            self.caches.version = -1
            self.caches.remove(removed)
            self._unsaved += len(removed)
            if added is not None:
                self.caches.add(*added)
                self._unsaved += len(added[0])
            self.caches.version = version

    def level(self) -> None:
        """Bring the caches to the newest commit, for a writer that looks into them before its own."""
        if self.journal.file is not None:
            with self._exclusive():
                self._level()

    def compact(self) -> bool:
        """Drop every trace of what was deleted; return whether none is left in the files."""
        with self.writing() as transaction:
            transaction.forget_changes()
            self.commit(transaction, [])
        with self._writer_turn():
            self.journal.vacuum()
            with self._exclusive():
                clean = self.journal.checkpoint()
                self.caches.compact()
            return self._save_caches() and clean

    def close(self) -> None:
        """Write the caches where that is worth it and close the files."""
        if self.closed:
            return
        self._refuse_while_reading()
        self._refuse_while_writing()
        with self._writer_turn(check=False):
            if self.closed:
                return
            # A handful of changes is caught up on opening faster than everything is written.
            if self._unsaved * 100 > len(self.caches.id_of):
                self._save_caches()
            with self._lock.write():
                self.closed = True
                self.caches.close()
                self.journal.close()

    def before_fork(self) -> None:
        """Wait until no thread is at work here: a child would have its locks for ever, and half of its change."""
        self._local.forking = False
        at_work = self.snapshot is not None or getattr(self._local, "writing", False)
        if at_work or not self._writer.acquire(timeout=self._timeout):
            return
        try:
            self._lock.acquire_write(self._timeout)
            self.journal.hold(min(1.0, self._timeout))  # it may be this thread that reads
            self._local.forking = True
        except TimeoutError:
            self._writer.release()

    def after_fork(self) -> None:
        """Let the threads of the process that forked go on."""
        if getattr(self._local, "forking", False):  # not for one that another thread has made meanwhile
            self.journal.release()
            self._lock.release_write()
            self._writer.release()

    def after_fork_in_child(self) -> None:
        """Begin with locks and connections of the child's own."""
        self._lock, self._writer = ReadWriteLock(), threading.Lock()
        self.journal.leave_parent()

    def _reading(self, snapshot: Snapshot) -> Iterator[Snapshot]:
        """Let this thread know what it is reading."""
        self._local.snapshot = snapshot
        try:
            yield snapshot
        finally:
            self._local.snapshot = None

    def _enter_level(self, stack: ExitStack) -> Snapshot:
        """Take a snapshot, bring the caches to its version, and hold the read lock."""
        with ExitStack() as attempt:
            self._lock.acquire_write()
            try:
                self.check_open()
                snapshot = attempt.enter_context(self.journal.snapshot())
                self._unsaved += self.caches.catch_up(snapshot)
            except BaseException:
                self._lock.release_write()
                raise
            self._lock.downgrade()
            stack.callback(self._lock.release_read)
            stack.push(attempt.pop_all())
            return snapshot

    @contextmanager
    def _writer_turn(self, *, check: bool = True) -> Iterator[None]:
        """Keep other writing threads of this process out."""
        if not self._writer.acquire(timeout=self._timeout):
            msg = f"another thread kept writing to this memory for {self._timeout:g} s"
            raise MemoryLockedError(msg)
        try:
            if check:
                self.check_open()
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

    def _level(self) -> None:
        """Bring the caches to what other processes have committed; the caller keeps readers out."""
        with self.journal.snapshot() as snapshot:
            if snapshot.version() != self.caches.version:
                self._unsaved += self.caches.catch_up(snapshot)

    def _refuse_while_reading(self) -> None:
        if self.snapshot is not None:
            msg = "a thread cannot write to a memory while it reads from it (inside a filter or `reading()`)"
            raise RuntimeError(msg)

    def _refuse_while_writing(self) -> None:
        if getattr(self._local, "writing", False):
            msg = "a filter cannot use the memory that it is applied to"
            raise RuntimeError(msg)

    @property
    def _cache_folder(self) -> Path | None:
        return None if self.journal.folder is None else self.journal.folder / CACHE_FOLDER

    def _save_caches(self) -> bool:
        """Write the caches where there is a folder; the caller keeps other writers of this process out."""
        folder = self._cache_folder
        if folder is None or self.journal.read_only:
            return True
        try:
            # The transaction writes nothing: it keeps other processes from saving at the same time.
            with self.journal.transaction(1.0) as transaction:
                self.level()  # An older state would bring back what another process has removed and compacted.
                with self._lock.read():
                    folder.mkdir(exist_ok=True)
                    self.caches.save(folder, transaction.meta("memory"))
            self._unsaved = 0
            return True
        except MemoryLockedError:
            logger.info("the caches of %s are not saved: another process is writing", self.journal.folder)
        except (OSError, MemoryFormatError, sqlite3.Error) as error:
            logger.warning("the caches of %s could not be saved (nothing is lost): %s", self.journal.folder, error)
        return False


def _for_all(call: Callable[[Coordinator], None]) -> Callable[[], None]:
    def call_all() -> None:
        for coordinator in list(_coordinators):
            call(coordinator)

    return call_all


if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
    os.register_at_fork(
        before=_for_all(Coordinator.before_fork),
        after_in_parent=_for_all(Coordinator.after_fork),
        after_in_child=_for_all(Coordinator.after_fork_in_child),
    )
