"""Looking at a memory from outside: is it whole, and what is in it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.memory.caches import Caches
from hybridmem_plugins.memory.journal import FILE_NAME, Journal
from hybridmem_plugins.memory.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `MemoryStore.check` found.

    Attributes:
        passages: Number of stored passages.
        version: Number of changes so far.
        problems: One sentence for each thing that is wrong.
    """

    passages: int
    version: int
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check_store(journal: Journal, snapshot: Snapshot, caches: Caches) -> CheckReport:
    """Verify the file, every passage's checksum, and that each tier holds just the stored rows."""
    problems = journal.integrity_problems()
    rows: list[int] = []
    try:
        for batch in snapshot.batches(1000):
            for record in batch:
                rows.append(record.row)
                Extraction.from_json(record.extraction)
                json.loads(record.metadata)
        dimension = snapshot.meta("dimension")
        for start in range(0, len(rows) if dimension else 0, 1000):
            snapshot.vectors(rows[start : start + 1000], int(dimension))
    except (MemoryFormatError, ValueError, TypeError) as error:
        problems.append(str(error))
        return CheckReport(len(rows), snapshot.version(), problems)
    stored = np.array(rows, dtype=np.int64)
    tiers: dict[str, Any] = {
        "vector index": caches.vectors.rows() if caches.vectors is not None else stored[:0],
        "word index": caches.lexical.rows(),
        "metadata index": np.flatnonzero(caches.metadata.live()),
        "id index": np.array(sorted(caches.id_of), dtype=np.int64),
    }
    for name, found in tiers.items():
        if not np.array_equal(np.sort(found), stored):
            extra, lacking = np.setdiff1d(found, stored), np.setdiff1d(stored, found)
            problems.append(f"the {name} differs from the journal: {len(extra)} rows too many, {len(lacking)} missing")
    return CheckReport(len(rows), snapshot.version(), problems)


def export_passages(snapshot: Snapshot, file: str | Path | IO[str], *, vectors: bool) -> int:
    """Write all passages as JSON lines; see `MemoryStore.export`."""
    columns = "id, title, text, metadata" + (", vector" if vectors else "")
    lines = (_line(*values) for values in snapshot.connection.execute(f"SELECT {columns} FROM passages ORDER BY id"))
    return write_lines(lines, file)


def salvage(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every passage that can still be read from a damaged journal, by ascending row.

    Raises:
        MemoryFormatError: Nothing can be read at all.
    """
    file = folder / FILE_NAME
    if not file.exists():
        msg = f"{file} does not exist"
        raise MemoryFormatError(msg)
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        highest = _highest_row(connection, file)
        for row in range(1, highest + 1):
            try:
                found = connection.execute(
                    "SELECT id, title, text, metadata FROM passages WHERE row = ?", (row,)
                ).fetchone()
                if found is not None:
                    yield _line(*found)
            except (sqlite3.DatabaseError, ValueError):
                continue


def _highest_row(connection: sqlite3.Connection, file: Path) -> int:
    for query in ("SELECT seq FROM sqlite_sequence WHERE name = 'passages'", "SELECT max(row) FROM passages"):
        try:
            found = connection.execute(query).fetchone()
        except sqlite3.DatabaseError:
            continue
        if found is not None and isinstance(found[0], int):
            return found[0]
    msg = f"{file} is damaged beyond reading"
    raise MemoryFormatError(msg)


def write_lines(lines: Iterator[Mapping[str, Any]], file: str | Path | IO[str]) -> int:
    """Write JSON lines to an open text file, or to a path that is replaced in one step; return their number.

    A link is written through, and what is no regular file, such as a pipe, is written into as it is.

    Raises:
        IsADirectoryError: The path is a folder.
    """
    if not isinstance(file, str | Path):
        count = 0
        ascii_only = "utf" not in (getattr(file, "encoding", None) or "utf-8").lower()
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=ascii_only) + "\n")
            count += 1
        return count
    target = Path(os.path.realpath(file))
    if target.is_dir():
        msg = f"{file} is a folder; name a file in it"
        raise IsADirectoryError(msg)
    # Renaming would put a file in the place of a pipe or device, or beside the open file that /dev/fd stands for.
    if Path(file).exists() and (not target.is_file() or os.path.abspath(file).startswith(("/dev/", "/proc/"))):
        with Path(file).open("w", encoding="utf-8", newline="\n") as stream:
            return write_lines(lines, stream)
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            count = write_lines(lines, stream)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _line(identity: str, title: str | None, text: str, metadata: str, vector: bytes | None = None) -> dict[str, Any]:
    line = {"id": identity, "title": title, "text": text, "metadata": json.loads(metadata)}
    if vector is not None:
        line["vector"] = np.frombuffer(vector, dtype="<f4").tolist()
    return line
