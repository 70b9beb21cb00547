"""Maximal marginal relevance: answers that are good and not all alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.retrieval.model import Hit

if TYPE_CHECKING:
    from hybridmem_plugins.hybrid_memory import HybridMemory


def maximal_marginal_relevance(
    query_vector: ArrayLike,
    vectors: ArrayLike,
    k: int,
    lambda_mult: float = 0.5,
    relevance: ArrayLike | None = None,
) -> list[int]:
    """Choose vectors one by one, each close to the query and far from those chosen (Carbonell and Goldstein, 1998).

    Args:
        query_vector: Shape `(dimension,)`.
        vectors: Candidates, shape `(n, dimension)`.
        k: How many to choose; fewer only where fewer are given.
        lambda_mult: Between 0, where only the difference counts, and 1, where only relevance does.
        relevance: Shape `(n,)`, on a scale like cosine similarity's; None takes the cosine similarity to the query.

    Returns:
        Positions of the chosen candidates, in the order of choosing. Of equals, the first is taken.

    Raises:
        ValueError: k < 1, lambda_mult outside of 0 to 1, or arrays that do not fit.

    >>> maximal_marginal_relevance([1, 0], [[1, 0], [0.99, 0.14], [0.6, -0.8]], k=2, lambda_mult=0.3)
    [0, 2]
    """
    if k < 1:
        msg = f"k must be at least 1, not {k}"
        raise ValueError(msg)
    if not 0 <= lambda_mult <= 1:
        msg = f"lambda_mult must be between 0 and 1, not {lambda_mult}"
        raise ValueError(msg)
    candidates = np.asarray(vectors, dtype=np.float64)
    if candidates.size == 0:
        return []
    query = np.asarray(query_vector, dtype=np.float64)
    if candidates.ndim != 2 or query.shape != candidates.shape[1:]:
        msg = f"a query of shape {query.shape} does not fit candidates of shape {candidates.shape}"
        raise ValueError(msg)
    unit = _unit(candidates)
    wanted = unit @ _unit(query[None])[0] if relevance is None else np.asarray(relevance, dtype=np.float64)
    if wanted.shape != (len(unit),):
        msg = f"relevance of shape {wanted.shape} does not fit {len(unit)} candidates"
        raise ValueError(msg)
    return _choose(unit, wanted, min(k, len(unit)), lambda_mult)


def diversify(memory: HybridMemory, hits: Sequence[Hit], k: int, lambda_mult: float = 0.5) -> list[Hit]:
    """Choose k of the hits by maximal marginal relevance, their scores being the relevance.

    Hits whose passage was deleted meanwhile are left out. The scores stay as they are, so they no longer descend.

    Args:
        memory: Where the hits come from.
        hits: Candidates, best first.
        k: How many to choose.
        lambda_mult: See `maximal_marginal_relevance`.
    """
    with memory.store.reading() as store:
        rows = store.rows_of([str(hit.passage.id) for hit in hits])
        stored = [(hit, row) for hit, row in zip(hits, rows, strict=True) if row is not None]
        if not stored or store.vectors is None:
            return []
        vectors = store.vectors.vectors([row for _, row in stored])
    relevance = [hit.score for hit, _ in stored]
    chosen = maximal_marginal_relevance(np.zeros(vectors.shape[1]), vectors, k, lambda_mult, relevance)
    return [stored[position][0] for position in chosen]


def _choose(unit: NDArray[Any], wanted: NDArray[Any], k: int, lambda_mult: float) -> list[int]:
    chosen: list[int] = []
    nearest = np.full(len(unit), -np.inf)
    left = np.ones(len(unit), dtype=np.bool_)
    for _ in range(k):
        # Before anything is chosen there is nothing to differ from.
        worth = wanted if not chosen else lambda_mult * wanted - (1 - lambda_mult) * nearest
        best = int(np.argmax(np.where(left, worth, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, unit @ unit[best])
    return chosen


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[Any] = vectors / np.where(lengths > 0, lengths, 1.0)
    return unit
