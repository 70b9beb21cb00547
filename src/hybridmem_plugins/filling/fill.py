"""Store many passages whose reading and embedding other processes do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hybridmem_plugins.errors import EmbedderMismatchError
from hybridmem_plugins.filling.engines import on_processes, on_ray
from hybridmem_plugins.filling.work import Done, Work, batches, pack, unpack
from hybridmem_plugins.memory.caches import full_text
from hybridmem_plugins.memory.embedding import SAME_EMBEDDER, embed, embedder_name
from hybridmem_plugins.memory.validation import check_passages
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.hybrid_memory import HybridMemory

ENGINES: Mapping[str, Callable[[Work, Sequence[bytes], int], Iterator[bytes]]] = {
    "processes": on_processes,
    "ray": on_ray,
}
BATCH = 500
"""Passages that a worker reads at once, and that are stored in one step."""


def fill(
    memory: HybridMemory,
    passages: Sequence[Passage],
    *,
    engine: str = "processes",
    workers: int | None = None,
    work: Work | None = None,
    batch_size: int = BATCH,
    advance: Callable[[int], object] | None = None,
) -> list[str]:
    """Store passages as `memory.add` does, with reading and embedding spread over processes.

    The memory is the same as after adding them here: words are counted, names linked and rows given where it is stored.
    What is stored just so is not read again, so that a filling that was stopped goes on where it was.

    Args:
        memory: Where to store; in a folder or behind an address.
        passages: What to store; ids are derived where they are missing.
        engine: `processes` of this machine, or `ray`.
        workers: How many; None takes one for each processor.
        work: Makes embedder and extractor in the workers; None takes the bundled ones.
        batch_size: Passages that a worker reads at once, and that are stored in one step.
        advance: Called with the number of passages that were stored (or were there) since the last call.

    Returns:
        The ids, in order.

    Raises:
        ValueError: An unknown engine, fewer than one worker, or passages that `add` refuses.
        ImportError: The engine is not installed.
        RuntimeError: Workers died again and again.
        EmbedderMismatchError: The workers' embedder is not the memory's.
    """
    if engine not in ENGINES:
        msg = f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}"
        raise ValueError(msg)
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1 or batch_size < 1:
        msg = "workers and batch_size must be at least 1"
        raise ValueError(msg)
    advance = advance or (lambda _: None)
    entries = check_passages(passages)
    named = {e.id: Passage(e.passage.text, e.passage.title, e.id, e.passage.metadata) for e in entries}
    missing = list(_missing(memory, list(named.values()), batch_size))
    advance(len(entries) - len(missing))
    groups = list(batches(missing, batch_size))
    packed = ENGINES[engine](work or Work(), [pack(group) for group in groups], workers)
    for group, result in zip(groups, packed, strict=True):
        done: Done = unpack(group, result)
        if group is groups[0]:
            _check_embedder(memory, done)
        memory.add(done.passages, done.vectors, done.extractions)
        advance(len(group))
    return [entry.id for entry in entries]


def _check_embedder(memory: HybridMemory, done: Done) -> None:
    """Compare the workers' first vector with what the memory's own embedder makes of that passage."""
    if memory.embedder is None:
        return
    first = done.passages[0]
    own = embed(memory.embedder, [full_text(first.title, first.text)], 1)[0].astype(np.float64)
    other = done.vectors[0].astype(np.float64)
    alike = own.shape == other.shape and own @ other >= SAME_EMBEDDER * np.linalg.norm(own) * np.linalg.norm(other)
    if not alike:
        msg = (
            f"the workers' embedder is not the memory's, {embedder_name(memory.embedder)!r}: give "
            "work=Work(embedder=...) what makes that one"
        )
        raise EmbedderMismatchError(msg)


def _missing(memory: HybridMemory, passages: Sequence[Passage], size: int) -> Iterator[Passage]:
    """Yield the passages that are not stored just so."""
    for group in batches(passages, size):
        stored = {found.id: found for found in memory.get([str(passage.id) for passage in group])}
        for passage in group:
            if stored.get(passage.id) != passage:
                yield passage
