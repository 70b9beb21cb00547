"""Graph databases that are down, mute, killed in the middle of a write, or refuse: clear errors, nothing half."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from falkordb_server import FalkorDB
from proxy import Proxy

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.samples import load_corpus

EMBEDDER = StaticEmbedder()
CORPUS = load_corpus()
SECRET = "hunter2-Zebra"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FalkorDB]:
    pytest.importorskip(
        "llama_index.graph_stores.falkordb", reason="llama-index-graph-stores-falkordb is not installed"
    )
    server = FalkorDB(tmp_path)
    yield server
    server.kill()


def engine(url: str, **options: Any) -> Any:
    from llama_index.graph_stores.falkordb import FalkorDBPropertyGraphStore
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from hybridmem_plugins.llama_index import as_graph_engine

    options = {"socket_timeout": 1.5, "retry": Retry(NoBackoff(), 0), **options}
    store = FalkorDBPropertyGraphStore(url, database="memory", refresh_schema=False, **options)
    return as_graph_engine(store, name="falkordb")


def edges(memory: HybridMemory) -> set[Any]:
    return set(memory.graph.edges(keys=True))


def same_as_embedded(memory: HybridMemory, passages: list[Passage]) -> bool:
    with HybridMemory(EMBEDDER) as embedded:
        embedded.add(passages)
        return edges(memory) == edges(embedded)


def assert_no_secret(error: BaseException, log: str) -> None:
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error) + log


def test_a_server_killed_while_writing_is_made_good(server: FalkorDB, tmp_path: Path) -> None:
    with HybridMemory(EMBEDDER, tmp_path / "m", graph=engine(server.url)) as memory:
        memory.add(CORPUS[:10])
        errors: list[Exception] = []

        def write() -> None:
            for number in range(200):
                batch = [Passage(f"{p.text} Version {number}.", p.title, p.id) for p in CORPUS[10:30]]
                try:
                    memory.add(batch)
                except EngineError as error:
                    errors.append(error)
                    return

        writing = threading.Thread(target=write)
        writing.start()
        time.sleep(0.7)
        server.kill()
        writing.join(30)
        assert errors
        assert "the graph database falkordb" in str(errors[0])
        with pytest.raises(EngineError):
            memory.search("memory cell")
        server.start()
        texts = {p.text.rpartition("Version ")[2] for p in memory.get([str(p.id) for p in CORPUS[10:30]])}
        assert len(texts) == 1  # all of one version
        last = [Passage(f"{p.text} Version last.", p.title, p.id) for p in CORPUS[10:30]]
        memory.add(last)
        assert same_as_embedded(memory, [*CORPUS[:10], *last])


def test_a_server_that_is_down_is_an_error_at_once_and_the_folder_stays_whole(server: FalkorDB, tmp_path: Path) -> None:
    made = engine(server.url)
    with HybridMemory(EMBEDDER, tmp_path / "m", graph=made) as memory:
        memory.add(CORPUS[:10])
        server.kill()
        for call in (lambda: memory.add(CORPUS[10:12]), lambda: memory.search("memory cell")):
            start = time.perf_counter()
            with pytest.raises(EngineError, match="refused"):
                call()
            assert time.perf_counter() - start < 5
        assert len(memory) == 10
    with pytest.raises(EngineError, match="refused"):
        HybridMemory(EMBEDDER, tmp_path / "m", graph=made)
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:  # without the database
        assert same_as_embedded(memory, CORPUS[:10])
        memory.add(CORPUS[10:12])
    server.start()
    with HybridMemory(EMBEDDER, tmp_path / "m", graph=made) as memory:
        assert same_as_embedded(memory, CORPUS[:12])


def test_a_silent_server_is_given_up_on_and_asked_again_later(server: FalkorDB, tmp_path: Path) -> None:
    with Proxy(lambda: socket.create_connection(("127.0.0.1", server.port))) as proxy:
        made = engine(f"falkor://127.0.0.1:{proxy.port}")
        with HybridMemory(EMBEDDER, tmp_path / "m", graph=made) as memory:
            memory.add(CORPUS[:10])
            before = memory.search("memory cell")
            proxy.stalled = True
            for call in (lambda: memory.search("memory cell"), lambda: memory.add(CORPUS[10:])):
                start = time.perf_counter()
                with pytest.raises(EngineError, match=r"(?i)timeout|timed out"):
                    call()
                assert time.perf_counter() - start < 6
            proxy.stalled = False
            assert memory.search("memory cell") == before
            memory.add(CORPUS[10:])
            assert same_as_embedded(memory, CORPUS)


def test_a_password_that_is_refused_is_not_shown(server: FalkorDB, tmp_path: Path, caplog: Any) -> None:
    server.kill()
    server.start("--requirepass", SECRET)
    caplog.set_level(logging.DEBUG)
    made = engine(f"falkor://:{SECRET}@127.0.0.1:{server.port}")
    with HybridMemory(EMBEDDER, tmp_path / "m", graph=made) as memory:
        memory.add(CORPUS[:5])
        server.kill()
        server.start("--requirepass", "another")
        for call in (lambda: memory.search("memory cell"), lambda: memory.add(CORPUS[5:8])):
            with pytest.raises(EngineError, match=r"(?i)password|auth") as caught:
                call()
            assert_no_secret(caught.value, caplog.text)
        assert SECRET not in repr(made) + repr(memory.store.graph) + made.name
        assert len(memory) == 5


WRITER = """
import sys
import ladybug
from llama_index.graph_stores.ladybug import LadybugPropertyGraphStore
from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.llama_index import as_graph_engine
from hybridmem_plugins.samples import load_corpus

store = LadybugPropertyGraphStore(ladybug.Database(sys.argv[1] + "/graph.lbug"), use_vector_index=False)
with HybridMemory(path=sys.argv[1] + "/m", graph=as_graph_engine(store, name="ladybug")) as memory:
    memory.add(load_corpus()[:10])
    print("ready", flush=True)
    for number in range(1000):
        memory.add([Passage(f"{p.text} Version {number}.", p.title, p.id) for p in load_corpus()[10:30]])
        print(number, flush=True)
"""


def test_ladybug_killed_while_writing_is_made_good(tmp_path: Path) -> None:
    """Embedded in the process that is killed by SIGKILL, in moments that differ."""
    pytest.importorskip("llama_index.graph_stores.ladybug", reason="llama-index-graph-stores-ladybug is not installed")
    import ladybug
    from llama_index.graph_stores.ladybug import LadybugPropertyGraphStore

    from hybridmem_plugins.llama_index import as_graph_engine

    for number in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        done = [process.stdout.readline() for _ in range(number + 1)][-1]
        time.sleep(0.05 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        database = ladybug.Database(str(tmp_path / "graph.lbug"))
        store = LadybugPropertyGraphStore(database, use_vector_index=False)
        with HybridMemory(EMBEDDER, tmp_path / "m", graph=as_graph_engine(store, name="ladybug")) as memory:
            stored = memory.get([str(p.id) for p in CORPUS[:30]])
            versions = {p.text.rpartition("Version ")[2] for p in stored[10:]}
            assert len(versions) == 1
            assert int(versions.pop().rstrip(".")) >= int(done)
            assert same_as_embedded(memory, stored)
        store.async_connection.close()
        store.connection.close()
        database.close()
