"""Tables of the journal, its format version and the upgrade path."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from hybridmem_plugins.errors import MemoryFormatError

FORMAT_VERSION = 1
# "hybm" in the header of the SQLite file: tells a memory from any other SQLite database.
APPLICATION_ID = 0x6879626D

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    # AUTOINCREMENT never gives out a row twice, not even one that was deleted last.
    """CREATE TABLE passages (
        row INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT,
        text TEXT NOT NULL,
        metadata TEXT NOT NULL,
        extraction TEXT NOT NULL,
        checksum INTEGER NOT NULL,
        vector BLOB NOT NULL,
        vector_checksum INTEGER NOT NULL
    )""",
    # Rows only, never text, so that forgetting needs no second place.
    "CREATE TABLE changes (version INTEGER NOT NULL, row INTEGER NOT NULL, removed INTEGER NOT NULL)",
    "CREATE INDEX changes_by_version ON changes (version)",
)

# From a format version to the function that turns it into the next one, inside one transaction.
UPGRADES: dict[int, Callable[[sqlite3.Connection], None]] = {}


def create(connection: sqlite3.Connection) -> None:
    """Make an empty journal inside the caller's transaction."""
    for statement in _TABLES:
        connection.execute(statement)
    values = {"format": FORMAT_VERSION, "version": 0, "changes_since": 0, "memory": secrets.token_hex(16)}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def format_version(connection: sqlite3.Connection, file: Path | None) -> int | None:
    """Return the format version of a journal; None for an empty database.

    Raises:
        MemoryFormatError: The database is something else, or was written by a newer version of this package.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID or "meta" not in tables:
        msg = f"{file} is a SQLite database, but no memory of hybridmem-plugins"
        raise MemoryFormatError(msg)
    found = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
    version = found[0] if found else None
    if not isinstance(version, int):
        msg = f"{file} is damaged: it has no format version"
        raise MemoryFormatError(msg)
    if version > FORMAT_VERSION:
        msg = (
            f"{file} has format version {version}; this hybridmem-plugins reads up to {FORMAT_VERSION}. "
            "Upgrade it: pip install -U hybridmem-plugins"
        )
        raise MemoryFormatError(msg)
    return version


def upgrade(connection: sqlite3.Connection, version: int, file: Path | None) -> None:
    """Bring an older journal to the current format inside the caller's transaction.

    Raises:
        MemoryFormatError: No upgrade starts at this version.
    """
    while version < FORMAT_VERSION:
        if version not in UPGRADES:
            msg = f"{file} has format version {version}, which cannot be upgraded"
            raise MemoryFormatError(msg)
        UPGRADES[version](connection)
        version += 1
        connection.execute("UPDATE meta SET value = ? WHERE key = 'format'", (version,))
