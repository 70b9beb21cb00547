"""Cost against size: indexing, search, update, delete, reopen and memory, beside raw hnswlib on the same vectors.

    python benchmarks/speed.py --sizes 10000,100000 [--results FILE]

Passages are generated (see `generated.py`); each size runs in processes of its own. Search times leave out embedding
the question. The yardstick is `knn_query` of the memory's own hnswlib index, called without anything around it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hybridmem_plugins
from generated import Corpus
from hybridmem_plugins import HybridMemory
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from results import write_section

BATCH = 2000
QUESTIONS = 200
CHANGES = 60
DIMENSION = 256

GOALS = {
    "indexed": ("indexed, passages/s", ">= 2,000"),
    "search_p50": ("search p50, ms", "<= 5"),
    "search_p95": ("search p95, ms", "<= 15"),
    "search_cpu_p50": ("search p50, ms of processor time", ""),
    "filtered_p50": ("search with a filter p50, ms", ""),
    "knn_p50": ("raw hnswlib knn_query (k=100) p50, ms", "yardstick"),
    "ratio": ("search p50 / knn_query p50", ""),
    "update_p50": ("update of one passage p50, ms", "<= 20"),
    "delete_p50": ("delete of one passage p50, ms", "<= 20"),
    "reopen": ("reopen, s", "<= 5"),
    "kilobytes": ("memory a passage beyond text and vector, KB", "<= 10"),
}


class TimedEmbedder(StaticEmbedder):
    """Knows how long it took to embed questions."""

    seconds = cpu = 0.0

    def embed_query(self, text: str) -> Any:
        start, cpu = time.perf_counter(), time.thread_time()
        vector = super().embed_query(text)
        self.seconds += time.perf_counter() - start
        self.cpu += time.thread_time() - cpu
        return vector


def resident() -> int:
    """Return this process's resident bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def each_ms(calls: list[Callable[[], Any]]) -> list[float]:
    times = []
    for call in calls:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return times


def build(size: int, folder: str) -> dict[str, float]:
    """Index, search, update and delete."""
    corpus = Corpus(size)
    batches = [list(corpus.passages(i, min(i + BATCH, size))) for i in range(0, size, BATCH)]
    embedder = TimedEmbedder()
    embedder.embed_query("warm up")
    memory = HybridMemory(embedder, path=folder)
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        memory.add(batch)
    memory.store.vectors.wait()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    found: dict[str, float] = {"indexed": size / wall, "indexed_cpu": size / cpu}
    del batches
    print(f"{size}: indexed {found['indexed']:.0f}/s wall, {found['indexed_cpu']:.0f}/s cpu", flush=True)
    questions = corpus.questions(QUESTIONS)
    found |= searches(memory, embedder, questions)
    rng = np.random.default_rng(5)
    chosen = rng.choice(size, CHANGES, replace=False).tolist()
    updated = [corpus.passage(number, variant=1) for number in chosen]
    found["update_p50"] = float(np.median(each_ms([lambda p=p: memory.add([p]) for p in updated])))
    found["delete_p50"] = float(np.median(each_ms([lambda p=p: memory.delete([p.id]) for p in updated])))
    start = time.perf_counter()
    memory.close()
    found["close"] = time.perf_counter() - start
    return found


def searches(memory: HybridMemory, embedder: TimedEmbedder, questions: list[str]) -> dict[str, float]:
    """Time searches without embedding, and hnswlib alone."""
    vectors = [embedder.embed_query(question) for question in questions]
    for question in questions[:20]:
        memory.search(question)
    wall, cpu, filtered = [], [], []
    for question in questions:
        for times, allowed in ((wall, None), (filtered, {"tenant": "a"})):
            embedder.seconds = embedder.cpu = 0.0
            start, start_cpu = time.perf_counter(), time.thread_time()
            memory.search(question, 8, filter=allowed)
            if allowed is None:
                cpu.append((time.thread_time() - start_cpu - embedder.cpu) * 1000)
            times.append((time.perf_counter() - start - embedder.seconds) * 1000)
    found = {
        "search_p50": float(np.percentile(wall, 50)),
        "search_p95": float(np.percentile(wall, 95)),
        "search_cpu_p50": float(np.percentile(cpu, 50)),
        "search_cpu_p95": float(np.percentile(cpu, 95)),
        "filtered_p50": float(np.percentile(filtered, 50)),
    }
    index = memory.store.vectors._graph  # the same index, without anything around it
    if index is not None:
        while not hasattr(index, "_index"):  # wrapped by what sorts out equal vectors
            index = index._graph
        raw = each_ms([lambda v=v: index._index.knn_query(v, k=100, num_threads=1) for v in vectors])
        found["knn_p50"] = float(np.percentile(raw, 50))
        found["ratio"] = found["search_p50"] / found["knn_p50"]
    return found


def reopen(size: int, folder: str) -> dict[str, float]:
    """Open what `build` stored, and weigh it."""
    embedder = StaticEmbedder()
    embedder.embed_query("warm up")
    HybridMemory(embedder).close()
    gc.collect()
    before = resident()
    start = time.perf_counter()
    memory = HybridMemory(embedder, path=folder)
    seconds = time.perf_counter() - start
    memory.search("Who is this?")
    gc.collect()
    grown = resident() - before
    count = len(memory)
    # Text stays in the journal, on disk; of the vectors one copy is what a passage cannot do without.
    found = {"reopen": seconds, "kilobytes": (grown / count - 4 * DIMENSION) / 1024}
    memory.close()
    return found


def in_process(phase: str, size: int, folder: str) -> dict[str, float]:
    """Run a phase in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--phase", phase, "--sizes", str(size), "--folder", folder],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def plot(measured: dict[int, dict[str, float]], file: Path) -> None:
    """Draw cost against size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = sorted(measured)
    shown = {
        "milliseconds": ["search_p50", "search_p95", "knn_p50", "update_p50", "delete_p50"],
        "seconds": ["reopen"],
        "KB a passage": ["kilobytes"],
        "passages/s": ["indexed"],
    }
    figure, axes = pyplot.subplots(1, len(shown), figsize=(16, 4))
    for axis, (unit, names) in zip(axes, shown.items(), strict=True):
        for name in names:
            known = [size for size in sizes if name in measured[size]]
            axis.plot(known, [measured[size][name] for size in known], "o-", label=GOALS[name][0].split(",")[0])
        axis.set(xscale="log", xlabel="passages", ylabel=unit)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def table(measured: dict[int, dict[str, float]]) -> list[str]:
    """Return the table's lines."""
    sizes = sorted(measured)
    lines = ["| | goal | " + " | ".join(f"{size:,}" for size in sizes) + " |", "|---|---|" + "---|" * len(sizes)]
    for name, (what, goal) in GOALS.items():
        cells = [f"{measured[s][name]:,.0f}" if name == "indexed" else f"{measured[s][name]:.2f}"
                 if name in measured[s] else "" for s in sizes]  # fmt: skip
        lines.append(f"| {what} | {goal} | " + " | ".join(cells) + " |")
    if len(sizes) > 1:
        growth = measured[sizes[-1]]["search_p50"] / measured[sizes[0]]["search_p50"]
        lines += ["", f"Search p50 grows {growth:.2f} times from {sizes[0]:,} to {sizes[-1]:,} passages (goal: <= 2)."]
    return lines


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    parser.add_argument("--phase", choices=["build", "reopen"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    if args.phase:
        print(json.dumps({"build": build, "reopen": reopen}[args.phase](sizes[0], args.folder)))
        return
    measured: dict[int, dict[str, float]] = {}
    load = os.getloadavg()[0]
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "memory")
            measured[size] = in_process("build", size, path) | in_process("reopen", size, path)
        print(json.dumps({size: measured[size]}, indent=1), flush=True)
    lines = [
        f"`python benchmarks/speed.py --sizes {args.sizes}`",
        "",
        f"hybridmem-plugins {hybridmem_plugins.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores (load average at the start {load:.1f}), bundled embedding, generated passages; "
        "embedding the question is left out of search.",
        "",
        *table(measured),
        "",
        "![Cost against size](speed.png)",
    ]
    print("\n".join(lines))
    write_section(args.results, "Speed", lines)
    plot(measured, args.results.with_name("speed.png"))


if __name__ == "__main__":
    main()
