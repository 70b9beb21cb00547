"""What is read from the journal and written to it inside one transaction, and what its errors mean."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError, MemoryLockedError

_CHUNK = 500  # below SQLite's smallest limit of 999 parameters
_FULL = "row, id, title, text, metadata, extraction, checksum"
_SHARED_FILE = 65_536  # bytes, and some more, of the file beside the journal that SQLite's readers share
_DAMAGE = ("malformed", "not a database", "corrupt")


class Errors:
    """Says in this package's errors what SQLite means.

    Args:
        file: The journal; None where it is in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors into this package's."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self.translate(error) from error

    def translate(self, error: sqlite3.DatabaseError) -> Exception:
        """Return this package's error for one of SQLite's."""
        text = str(error)
        if "locked" in text or "busy" in text:
            msg = f"another process keeps writing to {self.file} ; try again later"
            return MemoryLockedError(msg)
        if "full" in text:
            return OSError(errno.ENOSPC, f"{text}; nothing was stored", str(self.file))
        if "I/O error" in text:  # so SQLite calls it, too, where a full disk has no room for what readers share
            if self.file is not None and shutil.disk_usage(self.file.parent).free < _SHARED_FILE:
                return OSError(errno.ENOSPC, f"the disk is full ({text})", str(self.file))
            return OSError(errno.EIO, text, str(self.file))
        if "readonly" in text or "unable to open" in text:
            return PermissionError(errno.EACCES, text, str(self.file))
        if any(word in text for word in _DAMAGE) or type(error) is sqlite3.DatabaseError:
            return self.damage(text)
        return error

    def damage(self, what: str) -> MemoryFormatError:
        """Return the error for a damaged journal."""
        folder = None if self.file is None else self.file.parent
        return MemoryFormatError(
            f"{self.file} is damaged: {what}. What can still be read: hybridmem export {folder} FILE"
        )


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


class Snapshot:
    """One committed state of a journal.

    Args:
        connection: Inside a transaction, or the only one.
        errors: Turns SQLite's errors into this package's.
        guard: Held while a query runs.
    """

    def __init__(self, connection: sqlite3.Connection, errors: Errors, guard: AbstractContextManager[Any]) -> None:
        self.connection = connection
        self._errors = errors
        self._guard = guard

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all its lines."""
        try:
            with self._guard:
                return self.connection.execute(statement, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._errors.translate(error) from error

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
                what = "a passage is missing"
                raise self._errors.damage(what)
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

    def verify(self) -> None:
        """Verify the checksum of every passage.

        Raises:
            MemoryFormatError: One is damaged.
        """
        for _ in self.batches(4096):
            pass

    def _verified(self, lines: list[tuple[Any, ...]]) -> list[Record]:
        for line in lines:
            if line[6] != checksum(*line[1:6]):
                what = f"passage {line[1]!r} (row {line[0]}) does not match its checksum"
                raise self._errors.damage(what)
        return [Record(*line[:6]) for line in lines]

    def records_by_id(self, ids: Iterable[str]) -> dict[str, Record]:
        """Read passages by id."""
        found: dict[str, Record] = {}
        for chunk in _chunks(list(ids)):
            marks = ",".join("?" * len(chunk))
            lines = self.query(f"SELECT row, id, title, text, metadata FROM passages WHERE id IN ({marks})", chunk)
            found.update((line[1], Record(*line)) for line in lines)
        return found

    def vector_bytes(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Read vectors by row as they are stored, little-endian float32; rows that are not there are left out."""
        found: dict[int, bytes] = {}
        for chunk in _chunks(list(rows)):
            marks = ",".join("?" * len(chunk))
            found.update(self.query(f"SELECT row, vector FROM passages WHERE row IN ({marks})", chunk))
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
                    what = f"the vector of row {row} does not match its checksum"
                    raise self._errors.damage(what)
                matrix[position[row]] = np.frombuffer(vector, dtype="<f4")
            if len(lines) != len(chunk):
                what = "a vector is missing"
                raise self._errors.damage(what)
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
            raise self._errors.translate(error) from error
        return version

    def keep(self) -> None:
        """Make changes of the meta table permanent; no passage has changed, so the version stays."""
        try:
            self.connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._errors.translate(error) from error

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
        self.set_meta("changes_since", self.version())

    def _log(self, rows: Sequence[int], *, removed: bool) -> None:
        version = self.version() + 1
        self._run("INSERT INTO changes VALUES (?, ?, ?)", ((version, row, int(removed)) for row in rows))

    def _run(self, statement: str, parameters: Iterable[Sequence[Any]]) -> None:
        try:
            self.connection.executemany(statement, parameters)
        except sqlite3.DatabaseError as error:
            raise self._errors.translate(error) from error


def checksum(identity: str, title: str | None, text: str, metadata: str, extraction: str) -> int:
    """Return the CRC-32 of a stored passage."""
    return zlib.crc32("\x00".join((identity, "" if title is None else title, text, metadata, extraction)).encode())


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
