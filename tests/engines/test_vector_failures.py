"""A vector database's real client, in front of a server that is down, says nothing, or refuses the key."""

from __future__ import annotations

import logging
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.samples import load_corpus

EMBEDDER = StaticEmbedder()
CORPUS = load_corpus()
SECRET = "hunter2-Zebra"


class FakeRefusing(BaseHTTPRequestHandler):
    """Answers every request as Qdrant does where the key is wrong, with the key in the text."""

    def _refuse(self) -> None:
        text = f"Invalid api_key={self.headers['api-key']}".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _refuse  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def down() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield port


@contextmanager
def mute() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), FakeRefusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("way", "said"), [(down, "refused"), (mute, "timed out"), (refusing, "403")], ids=["down", "mute", "refusing"]
)
def test_it_is_a_clear_error_in_time_and_the_memory_stays_whole(
    way: Any, said: str, tmp_path: Path, caplog: Any
) -> None:
    pytest.importorskip("langchain_qdrant", reason="langchain-qdrant is not installed")
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    from hybridmem_plugins.langchain import GivenVectors, as_vector_engine

    caplog.set_level(logging.DEBUG)
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:
        memory.add(CORPUS[:5])
    with way() as port:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client warns of a key that is not encrypted
            client = QdrantClient(url=f"http://127.0.0.1:{port}", api_key=SECRET, timeout=2, check_compatibility=False)
        store = QdrantVectorStore(client, "memory", embedding=GivenVectors(256), validate_collection_config=False)
        engine = as_vector_engine(store)
        start = time.perf_counter()
        with pytest.raises(EngineError, match=said) as caught:
            HybridMemory(EMBEDDER, tmp_path / "m", vectors=engine)
        fresh = HybridMemory(EMBEDDER, tmp_path / "fresh", vectors=engine)  # it has nothing to give yet
        with pytest.raises(EngineError, match=said) as second:
            fresh.add(CORPUS[:5])
        assert time.perf_counter() - start < 20  # the client's own timeout, twice
        assert len(fresh) == 0
        fresh.close()
        shown = "".join(traceback.format_exception(caught.value) + traceback.format_exception(second.value))
        shown += repr(caught.value) + repr(engine) + engine.name
        assert SECRET not in shown
        assert SECRET not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("hybridmem"))
        client.close()
    with HybridMemory(EMBEDDER, tmp_path / "m") as memory:
        assert len(memory.search("memory cell", 8)) == 5
