"""The journal: one SQLite file that is the only truth about what a memory holds."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError, MemoryLockedError
from hybridmem_plugins.memory import schema

FILE_NAME = "journal.sqlite"
CACHE_FOLDER = "caches"

_CHUNK = 500  # below SQLite's smallest limit of 999 parameters
_FULL = "row, id, title, text, metadata, extraction, checksum"
_DAMAGE = ("malformed", "not a database", "corrupt")


@dataclass(frozen=True, slots=True)
class Record:
    """A stored passage as the journal holds it; metadata and extraction are JSON texts."""

    row: int
    id: str
    title: str | None
    text: str
    metadata: str
    extraction: str = ""


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A passage to store; the vector is little-endian float32."""

    id: str
    title: str | None
    text: str
    metadata: str
    extraction: str
    vector: bytes


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
        self.folder = path
        self.file = None if path is None else path / FILE_NAME
        self._timeout = write_timeout
        self.guard = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._all: list[sqlite3.Connection] = []
        self._immutable = False
        self.read_only = self._prepare_folder(read_only)
        try:
            self._writer = self._connect()
            with self._errors():
                self._prepare_tables()
        except BaseException:
            self.close()
            raise

    # --- reading -----------------------------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Read from one committed state, whatever other processes write meanwhile."""
        if self.file is None:  # one connection for all; the store keeps readers out while it writes
            yield Snapshot(self, self._writer)
            return
        with self.guard:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            with self._errors():
                connection = self._connect()
        try:
            with self._errors():
                connection.execute("BEGIN")
            yield Snapshot(self, connection)
        finally:
            if connection.in_transaction:
                connection.rollback()
            with self.guard:
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
        seconds = self._timeout if timeout is None else timeout
        with self._errors():
            self._writer.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")
            self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield Transaction(self, self._writer)
        finally:
            if self._writer.in_transaction:
                self._writer.rollback()

    def vacuum(self) -> None:
        """Write the file anew, without the bytes of anything deleted."""
        with self._errors():
            self._writer.execute("VACUUM")

    def checkpoint(self) -> bool:
        """Empty the write-ahead log.

        Returns:
            False where another process that is reading prevents it.
        """
        if self.file is None:
            return True
        with self._errors():
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
        with self.guard:
            for connection in self._all:
                connection.close()
            self._all.clear()
            self._idle.clear()

    # --- inside ------------------------------------------------------------------------------------------------

    def _prepare_folder(self, read_only: bool | None) -> bool:
        folder, file = self.folder, self.file
        if folder is None or file is None:
            return False
        if folder.exists() and not folder.is_dir():
            msg = f"{folder} is a file; a memory is a folder"
            raise MemoryFormatError(msg)
        if not file.exists():
            if folder.exists() and any(entry.name != CACHE_FOLDER for entry in folder.iterdir()):
                msg = f"{folder} is not empty and holds no memory ({FILE_NAME} is missing)"
                raise MemoryFormatError(msg)
            if read_only:
                msg = f"{folder} holds no memory ({FILE_NAME} is missing)"
                raise MemoryFormatError(msg)
            folder.mkdir(parents=True, exist_ok=True)
            return False
        writable = os.access(folder, os.W_OK) and os.access(file, os.W_OK)
        if not writable and not os.access(folder, os.W_OK):
            # SQLite needs to make a file beside the journal even for reading, unless told that nobody writes.
            log = file.with_name(file.name + "-wal")
            self._immutable = not (log.exists() and log.stat().st_size)
        return not writable if read_only is None else read_only

    def _connect(self) -> sqlite3.Connection:
        if self.file is None:
            target, uri = ":memory:", False
        elif self.read_only:
            target, uri = f"{self.file.absolute().as_uri()}?mode=ro{'&immutable=1' if self._immutable else ''}", True
        else:
            target, uri = str(self.file), False
        connection = sqlite3.connect(
            target, uri=uri, isolation_level=None, check_same_thread=False, timeout=self._timeout
        )
        with self.guard:
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

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into this package's."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self.translate(error) from error

    def translate(self, error: sqlite3.DatabaseError) -> Exception:
        """Return this package's error for one of SQLite's."""
        text = str(error)
        if "locked" in text or "busy" in text:
            msg = f"another process keeps writing to {self.file} (waited {self._timeout:g} s)"
            return MemoryLockedError(msg)
        if "full" in text:
            return OSError(errno.ENOSPC, f"{text}; nothing was stored", str(self.file))
        if "readonly" in text or "unable to open" in text:
            return PermissionError(errno.EACCES, text, str(self.file))
        if any(word in text for word in _DAMAGE) or type(error) is sqlite3.DatabaseError:
            return self.damage(text)
        return error

    def damage(self, what: str) -> MemoryFormatError:
        """Return the error for a damaged journal."""
        return MemoryFormatError(
            f"{self.file} is damaged: {what}. What can still be read: hybridmem export {self.folder} FILE"
        )


class Snapshot:
    """One committed state of a journal."""

    def __init__(self, journal: Journal, connection: sqlite3.Connection) -> None:
        self._journal = journal
        self.connection = connection

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all its lines."""
        try:
            if self._journal.file is not None:
                return self.connection.execute(statement, parameters).fetchall()
            with self._journal.guard:  # one connection for all threads
                return self.connection.execute(statement, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._journal.translate(error) from error

    def version(self) -> int:
        """Return how many changes were committed so far."""
        return int(self.meta("version") or 0)

    def meta(self, key: str) -> Any:
        """Return a value of the meta table, None where there is none."""
        found = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        return found[0][0] if found else None

    def count(self) -> int:
        """Return the number of passages."""
        return int(self.query("SELECT count(*) FROM passages")[0][0])

    def rows(self) -> list[int]:
        """Return all rows, ascending."""
        return [row for (row,) in self.query("SELECT row FROM passages ORDER BY row")]

    def ids(self) -> list[tuple[int, str]]:
        """Return every row with its id, by ascending row."""
        return [(row, identity) for row, identity in self.query("SELECT row, id FROM passages ORDER BY row")]

    def records(self, rows: Iterable[int]) -> Iterator[Record]:
        """Read passages by row, without their extractions; rows that are not there are left out."""
        for chunk in _chunks(list(rows)):
            marks = ",".join("?" * len(chunk))
            for line in self.query(
                f"SELECT row, id, title, text, metadata FROM passages WHERE row IN ({marks})", chunk
            ):
                yield Record(*line)

    def full_records(self, rows: Sequence[int]) -> Iterator[Record]:
        """Read passages by row with their extractions, and verify their checksums.

        Raises:
            MemoryFormatError: A passage is damaged or missing.
        """
        for chunk in _chunks(list(rows)):
            marks = ",".join("?" * len(chunk))
            lines = self.query(f"SELECT {_FULL} FROM passages WHERE row IN ({marks}) ORDER BY row", chunk)
            if len(lines) != len(chunk):
                raise self._journal.damage("a passage is missing")
            yield from self._verified(lines)

    def batches(self, size: int) -> Iterator[list[Record]]:
        """Read all passages with their extractions, by ascending row, and verify their checksums.

        Args:
            size: Passages in a batch.

        Raises:
            MemoryFormatError: A passage is damaged.
        """
        last = 0
        while lines := self.query(f"SELECT {_FULL} FROM passages WHERE row > ? ORDER BY row LIMIT ?", (last, size)):
            yield self._verified(lines)
            last = lines[-1][0]

    def _verified(self, lines: list[tuple[Any, ...]]) -> list[Record]:
        for line in lines:
            if line[6] != checksum(*line[1:6]):
                raise self._journal.damage(f"passage {line[1]!r} (row {line[0]}) does not match its checksum")
        return [Record(*line[:6]) for line in lines]

    def records_by_id(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read passages by id."""
        found: dict[str, Record] = {}
        for chunk in _chunks(list(ids)):
            marks = ",".join("?" * len(chunk))
            lines = self.query(f"SELECT row, id, title, text, metadata FROM passages WHERE id IN ({marks})", chunk)
            found.update((line[1], Record(*line)) for line in lines)
        return found

    def vectors(self, rows: Sequence[int], dimension: int) -> NDArray[np.float32]:
        """Read vectors, in the order of the rows.

        Raises:
            MemoryFormatError: A vector is damaged or missing.
        """
        matrix = np.empty((len(rows), dimension), dtype=np.float32)
        position = {row: index for index, row in enumerate(rows)}
        for chunk in _chunks(list(rows)):
            marks = ",".join("?" * len(chunk))
            lines = self.query(f"SELECT row, vector, vector_checksum FROM passages WHERE row IN ({marks})", chunk)
            for row, vector, expected in lines:
                if len(vector) != 4 * dimension or zlib.crc32(vector) != expected:
                    raise self._journal.damage(f"the vector of row {row} does not match its checksum")
                matrix[position[row]] = np.frombuffer(vector, dtype="<f4")
            if len(lines) != len(chunk):
                raise self._journal.damage("a vector is missing")
        return matrix

    def changes(self, since: int) -> list[tuple[int, bool]] | None:
        """Return rows that came or went after a version, in order, each with whether it went.

        Returns:
            None where the list of changes no longer reaches back that far.
        """
        if since < int(self.meta("changes_since") or 0):
            return None
        lines = self.query("SELECT row, removed FROM changes WHERE version > ? ORDER BY version, rowid", (since,))
        return [(row, bool(removed)) for row, removed in lines]


class Transaction(Snapshot):
    """Changes that are not committed yet."""

    def commit(self) -> int:
        """Make the changes permanent and return the new version."""
        try:
            self.connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
            version = self.version()
            self.connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._journal.translate(error) from error
        return version

    def set_meta(self, key: str, value: Any) -> None:
        """Store a value of the meta table."""
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", [(key, value)])

    def insert(self, records: Sequence[NewRecord]) -> list[int]:
        """Store passages whose ids are free, and return their rows."""
        highest = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'passages'")
        first = (highest[0][0] if highest else 0) + 1
        rows = list(range(first, first + len(records)))
        self._run(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    row, new.id, new.title, new.text, new.metadata, new.extraction,
                    checksum(new.id, new.title, new.text, new.metadata, new.extraction),
                    new.vector, zlib.crc32(new.vector),
                )
                for row, new in zip(rows, records, strict=True)
            ),
        )  # fmt: skip
        self._log(rows, removed=False)
        return rows

    def delete(self, rows: Sequence[int]) -> None:
        """Remove passages."""
        self._run("DELETE FROM passages WHERE row = ?", ((row,) for row in rows))
        self._log(rows, removed=True)

    def forget_changes(self) -> None:
        """Empty the list of changes; whoever is behind must start from the passages."""
        self._run("DELETE FROM changes WHERE version <= ?", [(self.version() + 1,)])
        self.set_meta("changes_since", self.version() + 1)

    def _log(self, rows: Sequence[int], *, removed: bool) -> None:
        version = self.version() + 1
        self._run("INSERT INTO changes VALUES (?, ?, ?)", ((version, row, int(removed)) for row in rows))

    def _run(self, statement: str, parameters: Iterable[Sequence[Any]]) -> None:
        try:
            self.connection.executemany(statement, parameters)
        except sqlite3.DatabaseError as error:
            raise self._journal.translate(error) from error


def checksum(identity: str, title: str | None, text: str, metadata: str, extraction: str) -> int:
    """Return the CRC-32 of a stored passage."""
    return zlib.crc32("\x00".join((identity, "" if title is None else title, text, metadata, extraction)).encode())


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
