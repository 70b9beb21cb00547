"""Build one index in this process and print what it cost, as JSON: `python -m ... SOURCE vectors|hybrid`."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence

import numpy as np

from hybridmem_plugins.comparison.questions import load_benchmark
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.memory.vectors import VectorIndex
from hybridmem_plugins.passage import Passage


class _Timed:
    """The built-in extractor, with the seconds that it took."""

    def __init__(self) -> None:
        self.inner, self.seconds = BuiltinExtractor(), 0.0

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        started = time.perf_counter()
        try:
            return self.inner.extract(passages)
        finally:
            self.seconds += time.perf_counter() - started


def _peak() -> float:
    """Return the peak of this process's memory, in MiB; the system counts in KiB, but in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def main(source: str, kind: str) -> None:
    """Measure one kind of index.

    Args:
        source: As for `load_benchmark`.
        kind: `vectors` or `hybrid`.
    """
    passages = load_benchmark(source).passages
    embedder = StaticEmbedder()
    embedder.embed_query("warm")
    before, started = _peak(), time.perf_counter()
    told = dict[str, float]()
    if kind == "vectors":
        vectors = np.asarray(embedder.embed_documents([passage.text for passage in passages]))
        index = VectorIndex(vectors.shape[1])
        index.add(range(len(passages)), vectors)
        index.wait()
        told["seconds"] = time.perf_counter() - started
    else:
        timed = _Timed()
        with HybridMemory(embedder, extractor=timed) as memory:
            memory.add(passages)
            told["seconds"] = time.perf_counter() - started
            told["graph_seconds"] = timed.seconds
            told.update(nodes=memory.graph.number_of_nodes(), edges=memory.graph.number_of_edges())
    told["mebibytes"] = _peak() - before
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:3])
