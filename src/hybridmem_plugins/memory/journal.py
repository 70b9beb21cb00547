"""The journal: one SQLite file that is the only truth about what a memory holds."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory import schema
from hybridmem_plugins.memory.forking import take_locks
from hybridmem_plugins.memory.snapshot import Errors, Snapshot, Transaction

FILE_NAME = "journal.sqlite"
CACHE_FOLDER = "caches"
# What may be in a folder that is to become a memory: indexes whose journal is gone, and what a new volume has.
NO_CONTENT = frozenset({CACHE_FOLDER, "lost+found"})

# Connections of the process that this one was forked from, kept since closing one here could undo what it is writing.
_inherited: list[sqlite3.Connection] = []


class Journal:
    """Passages, their vectors and extractions, and which of them changed when.

    Every change is one transaction that survives a crash from the moment `commit` returns. Any number of threads may
    read at once, each through a connection of its own; the caller sees to it that one thread writes at a time.

    Args:
        path: Folder of the memory; None keeps everything in memory.
        read_only: None finds out.
        write_timeout: Seconds to wait for another process that is writing.

    Raises:
        MemoryFormatError: The folder holds something else, the file is damaged, or a newer version wrote it.
    """

    def __init__(self, path: Path | None, *, read_only: bool | None = None, write_timeout: float = 30.0) -> None:
        # Whole, since connections are opened later, too, when the process may work in another folder.
        self.folder = None if path is None else Path(os.path.abspath(path))
        self.file = None if self.folder is None else self.folder / FILE_NAME
        self._timeout = write_timeout
        self._errors = Errors(self.file)
        self._guard = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._all: list[sqlite3.Connection] = []
        self._readers = 0
        self._forked = False
        self._sealed = False
        self.read_only = self._prepare_folder(read_only)
        try:
            with self._errors.translated():
                self._writer = self._connect()
                self._prepare_tables()
            self._inode = None if self.file is None else self.file.stat().st_ino
        except BaseException:
            self.close()
            raise

    # --- reading -----------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read from one committed state, whatever other processes write meanwhile."""
        if self.file is None:  # one connection for all; the store keeps readers out while it writes
            yield Snapshot(self._writer, self._errors, self._guard)
            return
        self._check_file()
        with self._guard:
            connection = self._idle.pop() if self._idle else None
            self._readers += 1
        try:
            if connection is None:
                with self._errors.translated():
                    connection = self._connect()
            with self._errors.translated():
                connection.execute("BEGIN")
            yield Snapshot(connection, self._errors, nullcontext())
        finally:
            if connection is not None and connection.in_transaction:
                connection.rollback()
            with self._guard:
                self._readers -= 1
                if connection is not None and self._sealed:
                    self._all.remove(connection)
                    connection.close()
                elif connection is not None:
                    self._idle.append(connection)

    # --- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, timeout: float | None = None) -> Iterator[Transaction]:
        """Write; nothing is kept unless `Transaction.commit` is called.

        Args:
            timeout: Seconds to wait for another process; None takes the journal's.

        Raises:
            MemoryLockedError: Another process wrote for longer than the timeout.
            PermissionError: The memory is open for reading only.
            OSError: The disk is full.
        """
        if self.read_only:
            msg = f"the memory in {self.folder} can only be read: its folder or journal is write-protected"
            raise PermissionError(errno.EACCES, msg)
        self._check_file()
        seconds = self._timeout if timeout is None else timeout
        with self._errors.translated():
            self._writer.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")
            self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield Transaction(self._writer, self._errors, self._guard)
        finally:
            if self._writer.in_transaction:
                self._writer.rollback()

    def vacuum(self) -> None:
        """Write the file anew, without the bytes of anything deleted."""
        if self.file is None:
            return
        with self._errors.translated():
            self._writer.execute("VACUUM")

    def checkpoint(self) -> bool:
        """Empty the write-ahead log.

        Returns:
            False where another process that is reading prevents it.
        """
        if self.file is None:
            return True
        with self._errors.translated():
            return not self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    def integrity_problems(self) -> list[str]:
        """Return what SQLite's own check finds wrong, at most 20 findings."""
        try:
            with self.snapshot() as snapshot:
                found = [str(line) for (line,) in snapshot.connection.execute("PRAGMA integrity_check(20)")]
        except (sqlite3.DatabaseError, MemoryFormatError) as error:
            return [str(error)]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Close all connections; the caller sees to it that nobody reads."""
        with self._guard:
            for connection in self._all:
                connection.close()
            self._all.clear()
            self._idle.clear()

    def hold(self, seconds: float) -> None:
        """Wait until no thread reads, and let none begin until `release`: a child would keep SQLite's own locks."""
        end = time.monotonic() + seconds
        while True:
            self._guard.acquire()
            if not self._readers or time.monotonic() >= end:
                return
            self._guard.release()
            time.sleep(0.001)

    def release(self) -> None:
        """Let readers begin again, after `hold`."""
        self._guard.release()

    def leave_parent(self) -> None:
        """Give up the connections of the process that this one was forked from."""
        self._guard = threading.RLock()  # a thread that is not here may have held the other
        self._readers = 0
        if self.file is None or not (self._all or self._forked):
            return
        _inherited.extend(self._all)
        self._all, self._idle, self._forked = [], [], True
        try:
            take_locks(self.file)
        except OSError:
            self._inode = None  # without them nothing would be safe: it must be opened again

    # --- inside ------------------------------------------------------------------------------------------------

    def _prepare_folder(self, read_only: bool | None) -> bool:
        folder, file = self.folder, self.file
        if folder is None or file is None:
            return False
        if folder.exists() and not folder.is_dir():
            msg = f"{folder} is a file; a memory is a folder"
            raise MemoryFormatError(msg)
        if not file.exists():
            if folder.exists() and any(entry.name not in NO_CONTENT for entry in folder.iterdir()):
                msg = f"{folder} is not empty and holds no memory ({FILE_NAME} is missing)"
                raise MemoryFormatError(msg)
            if read_only:
                msg = f"{folder} holds no memory ({FILE_NAME} is missing)"
                raise MemoryFormatError(msg)
            folder.mkdir(parents=True, exist_ok=True)
            return False
        writable = os.access(folder, os.W_OK) and os.access(file, os.W_OK)
        self._sealed = not writable and not os.access(folder, os.W_OK)
        return not writable if read_only is None else read_only

    def _check_file(self) -> None:
        """See that this process has a connection of its own to write, and that its file is still the memory's."""
        if self.file is None:
            return
        with self._guard:
            if self._forked:
                with self._errors.translated():
                    self._writer = self._connect()
                self._forked = False
        try:
            there = self.file.stat().st_ino == self._inode
        except FileNotFoundError:
            there = False
        if not there:
            msg = "the memory was removed or replaced while it was open; open it again"
            raise FileNotFoundError(errno.ENOENT, msg, str(self.file))

    def _unwatched(self) -> str:
        """Return how to read in a folder where SQLite cannot make the file beside the journal that it needs.

        Where nobody is writing it is told that nobody will; so each connection serves for one snapshot.
        """
        assert self.file is not None
        log = self.file.with_name(self.file.name + "-wal")
        return "&immutable=1" if self._sealed and not (log.exists() and log.stat().st_size) else ""

    def _connect(self) -> sqlite3.Connection:
        if self.file is None:
            target, uri = ":memory:", False
        elif self.read_only:
            target, uri = f"{self.file.as_uri()}?mode=ro{self._unwatched()}", True
        else:
            target, uri = str(self.file), False
        connection = sqlite3.connect(
            target, uri=uri, isolation_level=None, check_same_thread=False, timeout=self._timeout
        )
        with self._guard:
            self._all.append(connection)
        if not self.read_only:
            # Bytes of deleted text are overwritten; a commit is on the disk before it returns.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _prepare_tables(self) -> None:
        version = schema.format_version(self._writer, self.file)
        if self.read_only:
            if version != schema.FORMAT_VERSION:
                msg = f"{self.file} has format version {version} and must be opened for writing once, to be upgraded"
                raise MemoryFormatError(msg)
            return
        if self.file is not None:
            self._writer.execute("PRAGMA journal_mode = WAL")
        if version == schema.FORMAT_VERSION:
            return
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            version = schema.format_version(self._writer, self.file)  # another process may have been faster
            if version is None:
                schema.create(self._writer)
            else:
                schema.upgrade(self._writer, version, self.file)
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                self._writer.rollback()
