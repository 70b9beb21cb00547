"""What a memory in PostgreSQL costs as it grows: bytes a passage, passages filled a second, milliseconds a question.

    python benchmarks/engine_costs.py [--sizes 5000 20000] [--postgres ADDRESS] [--results FILE]

Also the bytes of a passage's graph in a graph database.

Passages are generated (`generated.py`): about 75 words each, names said as unevenly as in real text. One third of them
is a tenant's, for whom the filtered questions are asked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from falkordb import FalkorDB

from engines import (
    BATCH,
    drop,
    falkordb,
    falkordb_server,
    ladybug,
    postgres_server,
    table_sizes,
    with_schema,
)
from generated import Corpus
from hybridmem_plugins import HybridMemory
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from results import write_section

QUESTIONS = 60
SCHEMA = "benchmark_costs"


def asked(memory: HybridMemory, questions: list[str], allowed: dict[str, str] | None) -> tuple[str, int]:
    milliseconds, trips = [], 0
    for question in questions:
        start = time.perf_counter()
        memory.search(question, 8, allowed)
        milliseconds.append((time.perf_counter() - start) * 1000)
        trips = max(trips, memory.store.last_trips)
    p50, p95 = np.percentile(milliseconds[5:], [50, 95])  # the first ones prepare statements
    return f"{p50:.0f} · {p95:.0f}", trips


def measured(server: str, size: int, embedder: StaticEmbedder) -> str:
    corpus = Corpus(size)
    questions = corpus.questions(QUESTIONS)
    with HybridMemory(embedder, with_schema(server, SCHEMA)) as memory:
        start = time.perf_counter()
        for first in range(0, size, BATCH):
            memory.add(list(corpus.passages(first, min(size, first + BATCH))))
        rate = size / (time.perf_counter() - start)
        memory.compact()
        plain, trips = asked(memory, questions, None)
        filtered, more = asked(memory, questions, {"tenant": "a"})
        with memory.store.reading() as view:
            indexed = view.totals.indexed
    sizes = table_sizes(server, SCHEMA)
    drop(server, SCHEMA)
    cells = [sizes[name] / size for name in ("postings", "vectors", "mentions", "passages")]
    rest = (sum(sizes.values()) / size) - sum(cells)
    bytes_each = " | ".join(f"{cell:,.0f}" for cell in (*cells, rest, sum(sizes.values()) / size))
    kind = "HNSW" if indexed else "scan"
    return f"| {size:,} | {kind} | {rate:,.0f} | {plain} | {filtered} | {max(trips, more)} | {bytes_each} |"


def graph_bytes(size: int, embedder: StaticEmbedder) -> str:
    """Return what the graph of one memory takes in graph databases."""
    passages = list(Corpus(size).passages())
    with tempfile.TemporaryDirectory() as name, falkordb_server() as port:
        folder = Path(name)
        server = FalkorDB(port=port).connection
        graph = falkordb(port, "costs")
        before = server.info("memory")["used_memory"]
        for number, engine in enumerate((ladybug(folder), graph)):
            with HybridMemory(embedder, folder / f"memory {number}", graph=engine) as memory:
                memory.add(passages)
        in_memory = server.info("memory")["used_memory"] - before
        on_disk = sum(file.stat().st_size for file in folder.glob("graph.lbug*"))
    return f"| {size:,} | {on_disk / size:,.0f} | {in_memory / size:,.0f} |"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--postgres", metavar="ADDRESS")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    lines = [
        f"`python benchmarks/engine_costs.py --sizes {' '.join(map(str, args.sizes))}`",
        "",
        "Generated passages of about 75 words, bundled embedding (256 numbers), PostgreSQL beside the client on two "
        "cores. Filled in batches of 1,000, with embedding and extraction; bytes after `compact`, indexes included.",
        "",
        "| passages | vectors by | filled a second | ms a question (p50 · p95) | ms with a filter that allows a third "
        "| most round trips | bytes a passage: postings | vectors | mentions | passages | rest | all |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    embedder = StaticEmbedder()
    with postgres_server(args.postgres) as server:
        drop(server, SCHEMA)
        for size in args.sizes:
            lines.append(measured(server, size, embedder))
            print(lines[-1], flush=True)
    write_section(args.results, "Cost in PostgreSQL", lines)
    head = [lines[0], "", "The same passages' graph; bytes a passage.", ""]
    table = ["| passages | Ladybug's file, its log included | FalkorDB's memory |", "|---|---|---|"]
    table += [graph_bytes(size, embedder) for size in args.sizes]
    print("\n".join(table))
    write_section(args.results, "Cost in a graph database", [*head, *table])


if __name__ == "__main__":
    main()
