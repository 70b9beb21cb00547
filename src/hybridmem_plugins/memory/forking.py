"""The locks of SQLite in a process that forked."""

from __future__ import annotations

import os
from pathlib import Path

# Bytes that connections hold a shared lock on while they are open (SQLite's os_unix.c): of the database, and of the
# memory beside it that processes share.
_DATABASE = (0x4000_0002, 510)
_SHARED_MEMORY = (128, 1)


def take_locks(file: Path) -> None:
    """Take, for a child of a process that has a database open, the locks that SQLite believes the child has.

    Locks stay with the parent, and no connection of the child asks for them again, not even a new one. Once the parent
    has closed, others would take the write-ahead log away while the child writes to it. The files stay open until the
    child ends, as closing them would release the locks.
    """
    import fcntl

    for path, (start, length) in ((file, _DATABASE), (file.with_name(f"{file.name}-shm"), _SHARED_MEMORY)):
        if path.exists():  # nothing is shared where SQLite was told that nobody writes
            fcntl.lockf(os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)
