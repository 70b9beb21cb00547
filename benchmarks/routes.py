"""What each route gains and costs on each set, and what the router chooses.

    python benchmarks/routes.py DATA_FOLDER [--embedder minilm] [--questions N] [--write docs/retrieval.md]

Every question is asked by every route, one route after the other, so that all are slowed alike by what else runs.
--write puts the table into a page that has marks for it.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from ablation import evenly
from beir import METRICS, DataSet, in_chunks, read_sets, without_titles
from embedders import EMBEDDERS, embedder_named
from hybridmem_plugins import HybridMemory
from results import write_marked

ROUTES = ("vector", "semantic", "relational", "both", "auto")
K = 8


def row(data: DataSet, embedder_name: str) -> str:
    """Ask all questions of a set by every route."""
    memory = HybridMemory(embedder_named(embedder_name))
    for first in range(0, len(data.passages), 1000):
        memory.add(data.passages[first : first + 1000])
    milliseconds: dict[str, list[float]] = {route: [] for route in ROUTES}
    scores: dict[str, list[tuple[float, float]]] = {route: [] for route in ROUTES}
    chosen: Counter[str] = Counter()
    memory.search(data.queries[0].text)
    for query in data.queries:
        for route in ROUTES:
            start = time.perf_counter()
            hits = memory.search(query.text, K, route=route)
            milliseconds[route].append((time.perf_counter() - start) * 1000)
            found = [str(hit.passage.id) for hit in hits]
            scores[route].append((METRICS["recall@5"](found, query.gold), METRICS["perfect@8"](found, query.gold)))
        chosen[hits[0].provenance["route"]["chosen"]] += 1
    memory.close()
    cells = []
    for route in ROUTES:
        recall, perfect = np.mean(scores[route], axis=0)
        cells.append(f"{recall:.3f} · {perfect:.3f} · {np.median(milliseconds[route]):.1f}")
    walked = 1 - chosen["semantic"] / len(data.queries)
    return f"| {data.name} | " + " | ".join(cells) + f" | {walked:.0%} |"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--embedder", choices=sorted(EMBEDDERS), default="bundled")
    parser.add_argument("--questions", type=int, help="at most so many of each set, evenly spaced; all when not given")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    lines = [
        "| set | " + " | ".join(f"`{route}`" for route in ROUTES) + " | auto walks |",
        "|---|" + "---|" * len(ROUTES) + "--:|",
    ]
    print("\n".join(lines))
    for data in (evenly(each, args.questions) for each in read_sets(args.folder)):
        for variant in (data, without_titles(data), in_chunks(data)):
            lines.append(row(variant, args.embedder))
            print(lines[-1], flush=True)
    if args.write:
        write_marked(args.write, "routes", lines)


if __name__ == "__main__":
    main()
