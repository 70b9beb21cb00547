"""Graph databases under a memory: Ladybug, FalkorDB and Neo4j by Cypher, and one without a query language."""

from __future__ import annotations

import os
import random
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.engines.graphs import ExternalGraph
from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.memory.caches import Batch
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.samples import load_corpus, load_questions
from hybridmem_plugins.testing import GraphStoreSuite, MemorySuite

pytest.importorskip("llama_index.core", reason="the extra `llama-index` is not installed")
sys.path.insert(0, str(Path(__file__).parent.parent / "retrieval"))
import tenants

EMBEDDER = StaticEmbedder()


def networkx_store(folder: Path) -> Any:
    from hybridmem_plugins.llama_index import NetworkXPropertyGraphStore

    return NetworkXPropertyGraphStore()


def ladybug_store(folder: Path) -> Any:
    pytest.importorskip(
        "llama_index.graph_stores.ladybug", reason="llama-index-graph-stores-ladybug is not installed"
    )
    import ladybug
    from llama_index.graph_stores.ladybug import LadybugPropertyGraphStore

    return LadybugPropertyGraphStore(ladybug.Database(str(folder / "graph.lbug")), use_vector_index=False)


def falkordb_store(folder: Path) -> Any:
    pytest.importorskip(
        "llama_index.graph_stores.falkordb", reason="llama-index-graph-stores-falkordb is not installed"
    )
    from llama_index.graph_stores.falkordb import FalkorDBPropertyGraphStore

    url = os.environ.get("HYBRIDMEM_FALKORDB") or pytest.skip("HYBRIDMEM_FALKORDB names no server")
    return FalkorDBPropertyGraphStore(url, database=f"test_{uuid.uuid4().hex[:12]}", refresh_schema=False)


def neo4j_store(folder: Path) -> Any:
    pytest.importorskip("llama_index.graph_stores.neo4j", reason="llama-index-graph-stores-neo4j is not installed")
    from llama_index.graph_stores.neo4j import Neo4jPropertyGraphStore

    url = os.environ.get("HYBRIDMEM_NEO4J") or pytest.skip("HYBRIDMEM_NEO4J names no server")
    user, password = os.environ.get("HYBRIDMEM_NEO4J_LOGIN", "neo4j/neo4j").split("/", 1)
    return Neo4jPropertyGraphStore(user, password, url, refresh_schema=False, create_indexes=False)


MAKERS = [networkx_store, ladybug_store, falkordb_store, neo4j_store]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: Any, tmp_path: Path) -> Iterator[Any]:
    """Make an engine over an empty database."""
    from hybridmem_plugins.llama_index import as_graph_engine

    stores: list[Any] = []

    def made(name: str = "engine") -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        stores.append(request.param(tmp_path / name))
        return as_graph_engine(stores[-1], name=name)

    yield made
    for store in stores:
        if hasattr(store, "db"):
            store.connection.close()
            store.db.close()
        elif type(store).__name__ == "FalkorDBPropertyGraphStore":
            store.client.delete()


class TestGraphEngine(MemorySuite):
    @pytest.fixture(autouse=True)
    def _made(self, make: Any, tmp_path: Path) -> None:
        self.make_engine, self.folder, self.engine = make, tmp_path / "memory", None

    def make(self) -> HybridMemory:
        self.engine = self.make_engine() if self.engine is None else self.engine
        return HybridMemory(EMBEDDER, self.folder, graph=self.engine)

    def reopen(self, memory: HybridMemory) -> HybridMemory:
        memory.close()
        return self.make()


class Bare(ExternalGraph):
    """A tier that tells its database itself, as a store would."""

    def add(self, rows: Any, passages: Any, extractions: Any, tokens: Any) -> None:
        self.send(rows, Batch(list(passages), list(extractions), list(tokens)))
        super().add(rows, passages, extractions, tokens)

    def remove(self, rows: Sequence[int]) -> None:
        super().remove(rows)
        self.forget(rows)


class TestGraphStore(GraphStoreSuite):
    @pytest.fixture(autouse=True)
    def _made(self, make: Any) -> None:
        self.engine = make()

    def make(self) -> Bare:
        graph = Bare(self.engine)
        graph.bind(uuid.uuid4().hex)
        return graph
