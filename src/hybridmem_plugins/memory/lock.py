"""A lock that many readers share and one writer has alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes before readers that come later.

    The lock is not reentrant: a thread that reads must not ask for the lock again before it has released it, since a
    writer that waits in between would block it for ever.

    Example:
        >>> lock = ReadWriteLock()
        >>> with lock.read():
        ...     with lock.read():  # another reader; in real use in another thread
        ...         print("two readers")
        two readers
        >>> with lock.write(timeout=1.0):
        ...     print("one writer")
        one writer
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def read(self, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock together with other readers.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            TimeoutError: A writer kept the lock for longer than the timeout.
        """
        self.acquire_read(timeout)
        try:
            yield
        finally:
            self.release_read()

    @contextmanager
    def write(self, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock alone.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Raises:
            TimeoutError: Readers or another writer kept the lock for longer than the timeout.
        """
        self.acquire_write(timeout)
        try:
            yield
        finally:
            self.release_write()

    def acquire_read(self, timeout: float | None = None) -> None:
        """Take a share of the lock; see `read`."""
        with self._changed:
            if not self._changed.wait_for(lambda: not (self._writing or self._writers_waiting), timeout):
                msg = f"no read lock within {timeout} s"
                raise TimeoutError(msg)
            self._readers += 1

    def release_read(self) -> None:
        """Give a share of the lock back."""
        with self._changed:
            self._readers -= 1
            if not self._readers:
                self._changed.notify_all()

    def acquire_write(self, timeout: float | None = None) -> None:
        """Take the whole lock; see `write`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._writers_waiting += 1
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._changed.wait_for(lambda: not (self._writing or self._readers), left):
                    msg = f"no write lock within {timeout} s"
                    raise TimeoutError(msg)
                self._writing = True
            finally:
                self._writers_waiting -= 1
                if not self._writing:
                    self._changed.notify_all()

    def release_write(self) -> None:
        """Give the whole lock back."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()

    def downgrade(self) -> None:
        """Turn the whole lock, which the caller holds, into a share of it, letting no writer in between."""
        with self._changed:
            self._writing = False
            self._readers += 1
            self._changed.notify_all()
