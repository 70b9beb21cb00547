"""Connections to PostgreSQL: few round trips, a limit on every wait, and errors without secrets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import numpy as np

from hybridmem_plugins.engines.address import PostgresAddress, without_secrets
from hybridmem_plugins.errors import EngineError, MemoryLockedError, require

if TYPE_CHECKING:
    import psycopg

# libpq waits at least this long for a connection, whatever it is told.
_LEAST_CONNECT = 2
# Changes of many passages may take this many times as long as an answer.
_PATIENCE = 10
_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITING = "BEGIN ISOLATION LEVEL READ COMMITTED"

_open: WeakSet[Connections] = WeakSet()


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with its parameters."""

    sql: str
    parameters: Sequence[Any] | dict[str, Any] = ()


Ask = Callable[..., list[list[tuple[Any, ...]]]]
"""Runs statements in one round trip and returns what each gave."""


class Session:
    """One connection inside a transaction.

    Attributes:
        trips: Times that the database was waited for.
    """

    def __init__(self, connection: psycopg.Connection[Any], begin: str, translate: Callable[[Exception], Exception]):
        self.connection = connection
        self.trips = 0
        self._begin: str | None = begin
        self._translate = translate

    def ask(self, *statements: Statement) -> list[list[tuple[Any, ...]]]:
        """Run statements in one round trip and return what each gave; the first trip begins the transaction."""
        self.trips += 1
        cursors = []
        try:
            with self.connection.pipeline():
                if self._begin is not None:
                    self.connection.execute(self._begin)
                for statement in statements:
                    cursor = self.connection.cursor(binary=True)
                    cursors.append(cursor)
                    cursor.execute(statement.sql, statement.parameters)
            self._begin = None
            return [cursor.fetchall() if cursor.description is not None else [] for cursor in cursors]
        except Exception as error:
            raise self._translate(error) from None

    def copy(self, table: str, columns: str, lines: Iterator[Sequence[Any]]) -> None:
        """Add many lines to a table; the transaction has begun."""
        self.trips += 1
        try:
            with self.connection.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for line in lines:
                    copy.write_row(line)
        except Exception as error:
            raise self._translate(error) from None

    def be_patient(self, *, boundless: bool = False) -> None:
        """Allow what follows in this transaction to take ten times as long as the timeout, or as long as it takes."""
        limited = cast("Any", self.connection)
        seconds = 0.0 if boundless else _PATIENCE * limited.limit
        limited.limit = seconds or None
        self.ask(Statement("SELECT set_config('statement_timeout', %s, true)", [str(int(seconds * 1000))]))

    @property
    def begun(self) -> bool:
        """Whether anything was asked."""
        return self._begin is None


class Connections:
    """Connections that are kept for the next question.

    Args:
        address: Where to.
        most: Connections at once; who comes when all are taken waits.

    Raises:
        EngineError: PostgreSQL cannot be reached within the timeout, or refuses.
        ImportError: psycopg is not installed.
    """

    def __init__(self, address: PostgresAddress, most: int) -> None:
        require("psycopg", "postgres")
        self.address = address
        self._most = most
        self._vector_type: int | None = None
        self._closed = False
        self._begin()
        _open.add(self)

    def _begin(self) -> None:
        self._idle: list[psycopg.Connection[Any]] = []
        self._lent: set[psycopg.Connection[Any]] = set()
        self._guard = threading.Lock()
        self._free = threading.BoundedSemaphore(self._most)
        # Ends the transactions of questions that have their answer already.
        self._ending = ThreadPoolExecutor(1, thread_name_prefix="hybridmem-postgres")

    def __repr__(self) -> str:
        return f"Connections({self.address.shown!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """See one committed state, whatever others write meanwhile; nobody waits for the transaction's end."""
        connection = self._take()
        try:
            yield Session(connection, _READING, self.translate)
        except BaseException:
            self._give_back(connection)
            raise
        try:
            self._ending.submit(self._give_back, connection)
        except RuntimeError:  # closed meanwhile; the answer stands
            self._give_back(connection)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Change things; nothing is kept unless the block ends well."""
        connection = self._take()
        try:
            session = Session(connection, _WRITING, self.translate)
            yield session
            if session.begun:
                session.ask(Statement("COMMIT"))
        finally:
            self._give_back(connection)

    def run_alone(self, *statements: str) -> None:
        """Run statements outside of any transaction, however long they take."""
        connection = self._take()
        try:
            connection.execute("SET statement_timeout = 0")
            connection.limit = None  # type: ignore[attr-defined]
            for statement in statements:
                connection.execute(statement)
        except Exception as error:
            raise self.translate(error) from None
        finally:
            self._release(connection)

    def settle(self) -> None:
        """Wait until the transactions of all answered questions have ended."""
        self._ending.submit(int).result()

    def forget_vectors(self) -> None:
        """Look the type of vectors up again: the extension was installed just now."""
        self._vector_type = None
        self._drop_idle()

    def close(self) -> None:
        """Close all connections."""
        self._ending.shutdown(wait=True)
        with self._guard:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def leave_parent(self) -> None:
        """Begin anew in a forked process: on the parent's lines both would read each other's answers.

        They are cut off here, also for a transaction that the fork fell into, and hear nothing: closing one would end
        the parent's session.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for connection in [*self._idle, *self._lent]:
            if not connection.closed:
                os.dup2(nothing, connection.fileno(), inheritable=False)
                connection.close()
        os.close(nothing)
        self._begin()

    def translate(self, error: Exception) -> Exception:
        """Return this package's error for one of psycopg's, without secrets."""
        import psycopg

        if not isinstance(error, psycopg.Error | TimeoutError):
            return error
        if isinstance(error, psycopg.errors.LockNotAvailable):
            msg = f"another writer kept the memory in {self.address.shown} for {self.address.timeout:g} s"
            return MemoryLockedError(msg)
        reason = without_secrets(" ".join(str(error).split()) or type(error).__name__)
        if isinstance(error, TimeoutError | psycopg.errors.QueryCanceled):
            reason = f"no answer within {self.address.timeout:g} s"
        return EngineError(f"PostgreSQL at {self.address.shown}: {reason}")

    def _take(self) -> psycopg.Connection[Any]:
        if self._closed:
            msg = "the memory is closed"
            raise ValueError(msg)
        if not self._free.acquire(timeout=self.address.timeout):
            msg = f"PostgreSQL at {self.address.shown}: all connections were busy for {self.address.timeout:g} s"
            raise EngineError(msg)
        try:
            with self._guard:
                connection = self._idle.pop() if self._idle else None
            if connection is not None and not _alive(connection):
                self._drop_idle()  # where one was cut off, the server was restarted: the others are dead as well
                connection = None
            connection = connection or self._connect()
        except BaseException:
            self._free.release()
            raise
        self._lent.add(connection)
        return connection

    def _give_back(self, connection: psycopg.Connection[Any]) -> None:
        """Keep a connection whose transaction is over, and drop any other."""
        try:
            connection.limit = self.address.timeout  # type: ignore[attr-defined]
            if not connection.closed and connection.info.transaction_status:
                connection.execute("ROLLBACK", prepare=False)
        except Exception:
            connection.close()
        finally:
            with self._guard:
                keep = not connection.closed and not self._closed
                if keep:
                    self._idle.append(connection)
            self._release(connection, keep=keep)

    def _release(self, connection: psycopg.Connection[Any], *, keep: bool = False) -> None:
        if not keep:
            connection.close()
        if connection in self._lent:  # not where the process has forked since: the lines are counted anew
            self._lent.remove(connection)
            self._free.release()

    def _drop_idle(self) -> None:
        with self._guard:
            dead, self._idle = self._idle, []
        for connection in dead:
            connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        seconds, schema = self.address.timeout, self.address.schema
        milliseconds = int(seconds * 1000)
        options = (
            f"-c search_path={schema},public -c statement_timeout={milliseconds + 250} -c lock_timeout={milliseconds} "
            f"-c idle_in_transaction_session_timeout={max(60_000, 10 * milliseconds)} -c jit=off"
        )
        try:
            connection: psycopg.Connection[Any] = _limited_connection().connect(
                self.address.target,
                autocommit=True,
                connect_timeout=max(_LEAST_CONNECT, int(seconds)),
                application_name="hybridmem",
                options=options,
            )
        except Exception as error:
            raise self._refusal(error) from None
        connection.limit = seconds  # type: ignore[attr-defined]
        try:
            self._teach_vectors(connection)
        except Exception as error:
            connection.close()
            raise self.translate(error) from None
        return connection

    def _refusal(self, error: Exception) -> Exception:
        import psycopg

        if isinstance(error, psycopg.ProgrammingError):  # it may quote any part of the address
            return ValueError(f"PostgreSQL at {self.address.shown}: libpq does not understand the address")
        return self.translate(error)

    def _teach_vectors(self, connection: psycopg.Connection[Any]) -> None:
        """Let vectors be numpy arrays; the type's number is known once the extension is installed."""
        if self._vector_type is None:
            found = connection.execute("SELECT to_regtype('vector')::oid").fetchone()
            self._vector_type = found[0] if found else None
        if self._vector_type is not None:
            loader, dumper = _vector_adapters(self._vector_type)
            connection.adapters.register_loader(self._vector_type, loader)
            connection.adapters.register_dumper(np.ndarray, dumper)


def _leave_parent() -> None:
    for connections in list(_open):
        connections.leave_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
    os.register_at_fork(after_in_child=_leave_parent)


def _alive(connection: psycopg.Connection[Any]) -> bool:
    """Say whether an idle connection still stands, without asking the server."""
    import select

    if connection.closed:
        return False
    # Nothing is due on an idle connection: what can be read is a notice of the server's end.
    readable, _, _ = select.select([connection.fileno()], [], [], 0)
    if not readable:
        return True
    connection.close()
    return False


@cache
def _limited_connection() -> type[Any]:
    """Return a connection class that waits for the server for a limited time."""
    import psycopg

    class LimitedConnection(psycopg.Connection[Any]):
        """A connection that gives up on a silent server, which libpq alone would wait for without end."""

        limit: float | None = None

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            if self.limit is None:
                return super().wait(gen, interval, timeout)
            before = time.monotonic()
            try:
                # The server's own limit comes first, where it still answers.
                return super().wait(gen, interval, self.limit + 0.5)
            except psycopg.Error as error:
                if error.sqlstate is None and time.monotonic() - before >= self.limit:
                    self.pgconn.finish()
                    raise TimeoutError from None
                raise

    return LimitedConnection


def _vector_adapters(oid_: int) -> tuple[Any, Any]:
    """Return psycopg's loader and dumper between pgvector's binary form and float32 arrays."""
    from psycopg.adapt import Buffer, Dumper, Loader
    from psycopg.pq import Format

    class VectorLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> np.ndarray[Any, Any]:
            return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)

    class VectorDumper(Dumper):
        format = Format.BINARY
        oid = oid_

        def dump(self, obj: np.ndarray[Any, Any]) -> bytes:
            return len(obj).to_bytes(2, "big") + b"\0\0" + obj.astype(">f4").tobytes()

    return VectorLoader, VectorDumper
