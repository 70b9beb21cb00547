"""What each way costs before and beside its answers: indexing, memory, training, and the change of one fact."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from hybridmem_plugins.comparison.questions import Benchmark
from hybridmem_plugins.generation.loading import resolve_adapter
from hybridmem_plugins.hybrid_memory import HybridMemory


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an index costs.

    Attributes:
        seconds: To build it from texts, embedding included.
        mebibytes: By which the process's peak grew, the embedder's own weights left out.
    """

    seconds: float
    mebibytes: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of a comparison's ways.

    Attributes:
        vectors: Vectors alone.
        hybrid: Vectors, words, metadata and graph.
        graph_seconds: Of the hybrid index's time, that of finding names and links in the texts.
        nodes: Nodes of the graph.
        edges: Edges of the graph.
        update_seconds: Median time to replace one passage in the hybrid memory and its graph.
        update_vector_seconds: Median time to embed one passage and store its vector anew.
        model_mebibytes: Weights of the model as loaded.
        training: What the adapter's card says of its training; it is not repeated for a new fact.
        closed_book: Seconds, steps and device of training on the passages; empty where none was made.
    """

    vectors: Footprint
    hybrid: Footprint
    graph_seconds: float
    nodes: int
    edges: int
    update_seconds: float
    update_vector_seconds: float
    model_mebibytes: float
    training: str
    closed_book: dict[str, float | str]


def measure_costs(
    source: str | Path, benchmark: Benchmark, *, model_mebibytes: float, adapter: str | Path, closed_book: Path | None
) -> Costs:
    """Measure everything on this machine; indexes are built in processes of their own.

    Args:
        source: Where the benchmark came from.
        benchmark: Its passages.
        model_mebibytes: Weights of the model as loaded.
        adapter: The fine-tuned reader, whose card says what its training cost.
        closed_book: Adapter trained on the passages, with its `cost.json`; None where there is none.
    """
    update, vector = _update_seconds(benchmark)
    hybrid, vectors = footprint(source, "hybrid"), footprint(source, "vectors")
    return Costs(
        vectors=Footprint(vectors["seconds"], vectors["mebibytes"]),
        hybrid=Footprint(hybrid["seconds"], hybrid["mebibytes"]),
        graph_seconds=hybrid["graph_seconds"],
        nodes=int(hybrid["nodes"]),
        edges=int(hybrid["edges"]),
        update_seconds=update,
        update_vector_seconds=vector,
        model_mebibytes=model_mebibytes,
        training=training_of(adapter),
        closed_book=_cost_of(closed_book),
    )


def footprint(source: str | Path, kind: str) -> dict[str, float]:
    """Build an index in a new process and return its seconds and the growth of the peak, in MiB.

    Args:
        source: As for `load_benchmark`.
        kind: `vectors` or `hybrid`.

    Raises:
        RuntimeError: The process failed.
    """
    command = [sys.executable, "-m", "hybridmem_plugins.comparison.footprint", str(source), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"could not measure the {kind} index: {done.stderr.strip().splitlines()[-1:]}"
        raise RuntimeError(msg)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _update_seconds(benchmark: Benchmark, rounds: int = 15) -> tuple[float, float]:
    """Return the median seconds of replacing a passage, in memory and graph, and in vectors alone."""
    from hybridmem_plugins.memory.vectors import VectorIndex

    whole, alone = [], []
    with HybridMemory() as memory:
        memory.add(benchmark.passages)
        embed = memory.embedder.embed_documents
        vectors = np.asarray(embed([passage.text for passage in benchmark.passages]))
        index = VectorIndex(vectors.shape[1])
        index.add(range(len(vectors)), vectors)
        for row, passage in enumerate(benchmark.passages[:rounds]):
            changed = replace(passage, text=f"{passage.text} Since then, this has changed.")
            started = time.perf_counter()
            memory.add([changed])
            whole.append(time.perf_counter() - started)
            started = time.perf_counter()
            index.remove([row])
            index.add([len(benchmark.passages) + row], embed([changed.text]))
            alone.append(time.perf_counter() - started)
    return median(whole), median(alone)


def training_of(adapter: str | Path) -> str:
    """Return the line of an adapter's card that says how it was trained; an empty text where there is none."""
    card = Path(resolve_adapter(adapter)) / "README.md"
    if not card.is_file():
        return ""
    found = re.search(r"\*\*Recipe\*\*:(.*?)\n\n", card.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _cost_of(closed_book: Path | None) -> dict[str, float | str]:
    file = closed_book / "cost.json" if closed_book is not None else None
    if file is None or not file.is_file():
        return {}
    cost: dict[str, float | str] = json.loads(file.read_text(encoding="utf-8"))
    return cost
