"""Retrieval quality and speed: hybrid beside the vectors alone, BM25 alone, and their reciprocal rank fusion.

    python benchmarks/retrieval_quality.py DATA_FOLDER [--embedder minilm] [--variants] [--results FILE]

DATA_FOLDER holds data sets in BEIR form, or is one. One setting for all of them. hnswlib and BM25 (bm25s) are run by
their own libraries, on the same passages and vectors, in the same run. Figures of peers are read from `peers.json` in
the folder, where there is one. `--variants` adds each set without titles and cut into chunks of 60 words.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import bm25s
import hnswlib
import numpy as np

from beir import METRICS, DataSet, in_chunks, interval, read_sets, without_titles
from embedders import EMBEDDERS, embedder_named
from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.extraction.tokens import words
from results import write_section

DEPTH = 60  # results that each system gives; reciprocal rank fusion needs more than it returns
K = 8


@dataclass
class Outcome:
    """What a system did on a data set."""

    system: str
    data: str
    found: list[list[str]] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)


def text_of(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def timed(search: Callable[[str], list[str]], data: DataSet, system: str) -> Outcome:
    """Ask every question once, after one to warm up."""
    search(data.queries[0].text)
    outcome = Outcome(system, data.name)
    for query in data.queries:
        start = time.perf_counter()
        outcome.found.append(search(query.text))
        outcome.milliseconds.append((time.perf_counter() - start) * 1000)
    return scored(outcome, data)


def scored(outcome: Outcome, data: DataSet) -> Outcome:
    for name, metric in METRICS.items():
        outcome.scores[name] = [metric(f, q.gold) for f, q in zip(outcome.found, data.queries, strict=True)]
    return outcome


def hnsw_search(vectors: np.ndarray, ids: list[str], embed: Callable[[str], np.ndarray]) -> Callable[[str], list[str]]:
    index = hnswlib.Index("cosine", vectors.shape[1])
    index.init_index(len(ids), M=16, ef_construction=128, random_seed=0)
    index.add_items(vectors, num_threads=1)
    index.set_ef(max(100, 2 * DEPTH))

    def search(question: str) -> list[str]:
        labels, _ = index.knn_query(embed(question)[None], k=min(DEPTH, len(ids)), num_threads=1)
        return [ids[label] for label in labels[0]]

    return search


def bm25_search(passages: list[Passage], ids: list[str]) -> Callable[[str], list[str]]:
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index([words(text_of(p)) for p in passages], show_progress=False)
    known = set(index.vocab_dict)

    def search(question: str) -> list[str]:
        tokens = [token for token in words(question) if token in known]
        if not tokens:
            return []
        rows, _ = index.retrieve([tokens], k=min(DEPTH, len(ids)), show_progress=False)
        return [ids[row] for row in rows[0]]

    return search


def fused(data: DataSet, name: str, outcomes: list[Outcome]) -> Outcome:
    """Fuse rankings by reciprocal rank (k = 60), as most hybrid retrievers do."""
    outcome = Outcome(name, data.name)
    for i in range(len(data.queries)):
        scores: dict[str, float] = {}
        for part in outcomes:
            for rank, found in enumerate(part.found[i], 1):
                scores[found] = scores.get(found, 0.0) + 1 / (60 + rank)
        outcome.found.append(sorted(scores, key=lambda found: (-scores[found], found)))
        outcome.milliseconds.append(sum(part.milliseconds[i] for part in outcomes))
    return scored(outcome, data)


def run(data: DataSet, embedder_name: str) -> tuple[list[Outcome], float]:
    """Run all systems on one data set; return what they did and hybrid's passages indexed per second."""
    embedder = embedder_named(embedder_name)
    memory = HybridMemory(embedder)
    start = time.perf_counter()
    for first in range(0, len(data.passages), 1000):
        memory.add(data.passages[first : first + 1000])
    rate = len(data.passages) / (time.perf_counter() - start)
    ids = [str(p.id) for p in data.passages]
    rows = memory.store.rows_of(ids)
    vectors = memory.store.vectors.vectors([row for row in rows if row is not None])
    hnsw = timed(hnsw_search(vectors, ids, embedder.embed_query), data, "hnswlib alone")
    bm25 = timed(bm25_search(data.passages, ids), data, "BM25 alone")
    outcomes = [hnsw, bm25, fused(data, "their reciprocal rank fusion", [hnsw, bm25])]
    routes = {"hybrid, route semantic": "semantic", "hybrid, route relational": "relational", "hybrid": "auto"}
    for name, route in routes.items():

        def search(question: str, route: str = route) -> list[str]:
            return [str(hit.passage.id) for hit in memory.search(question, K, route=route)]

        outcomes.append(timed(search, data, name))
    memory.close()
    return outcomes, rate


def table(data: DataSet, outcomes: list[Outcome], rate: float, peers: dict) -> list[str]:
    """Write one data set's table."""
    lines = [
        f"### {data.name}",
        "",
        f"{len(data.passages):,} passages, {len(data.queries)} questions; hybrid indexed {rate:,.0f} passages/s.",
        "",
        "| system | " + " | ".join(METRICS) + " | ms a question (p50 · p95) |",
        "|---|" + "---|" * (len(METRICS) + 1),
    ]
    for outcome in outcomes:
        cells = []
        for name in METRICS:
            low, high = interval(outcome.scores[name])
            cells.append(f"{np.mean(outcome.scores[name]):.3f} [{low:.2f}, {high:.2f}]")
        p50, p95 = np.percentile(outcome.milliseconds, [50, 95])
        lines.append(f"| {outcome.system} | " + " | ".join(cells) + f" | {p50:.1f} · {p95:.1f} |")
    for system, figures in peers.get("systems", {}).items():
        if data.name in figures:
            known = [figures[data.name].get(name) for name in METRICS]
            cells = [f"{value:.3f}" if value is not None else "" for value in known]
            lines.append(f"| {system}, as published¹ | " + " | ".join(cells) + " | |")
    return [*lines, ""]


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embedder", choices=sorted(EMBEDDERS), default="bundled")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    peers_file = args.folder / "peers.json"
    peers = json.loads(peers_file.read_text()) if peers_file.exists() else {}
    title = f"Retrieval quality, {args.embedder} embedding" + (", varied sets" if args.variants else "")
    lines = [
        f"`python benchmarks/retrieval_quality.py {args.folder}"
        + (f" --embedder {args.embedder}" if args.embedder != "bundled" else "")
        + (" --variants" if args.variants else "")
        + "`",
        "",
        f"hybridmem-plugins {metadata.version('hybridmem-plugins')}, Python {platform.python_version()}, one setting "
        "for all sets, no LLM. Brackets: 95% bootstrap intervals over questions. Times include embedding the question.",
        "",
    ]
    for data in read_sets(args.folder):
        for each in [without_titles(data), in_chunks(data)] if args.variants else [data]:
            outcomes, rate = run(each, args.embedder)
            part = table(each, outcomes, rate, peers)
            print("\n".join(part), flush=True)
            lines += part
    if peers and not args.variants:
        lines.append(
            f"¹ {peers['source']}; over {peers['corpus_passages_searched']} passages, an easier task than ours."
        )
    write_section(args.results, title, lines)


if __name__ == "__main__":
    main()
