"""The semantic tier alone: the passages nearest to a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.memory.validation import positive
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.diversity import maximal_marginal_relevance


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A passage near to a vector.

    Attributes:
        passage: The passage.
        similarity: Cosine similarity, between -1 and 1.
        vector: The passage's unit vector, shape `(dimension,)`.
    """

    passage: Passage
    similarity: float
    vector: NDArray[np.float32]


def nearest(
    store: MemoryStore,
    vector: ArrayLike,
    k: int,
    filter: Filter | None = None,  # noqa: A002
    ids: Sequence[str] | None = None,
) -> list[Neighbour]:
    """Return the passages nearest to a vector, best first; equally near ones by id.

    Args:
        store: Where the passages are.
        vector: Shape `(dimension,)`.
        k: How many; fewer only where fewer are stored and allowed.
        filter: Metadata that passages must have.
        ids: Passages to choose among; None means all.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: k < 1, an unknown filter operator, or a vector of the wrong length or with NaN or infinity.
    """
    k = positive("k", k)
    with store.reading():
        allowed = store.allowed(filter)
        if ids is not None:
            allowed = _among(store, ids, allowed)
        if store.vectors is None:
            return []
        rows, similarities = store.vectors.search(vector, k, allowed)
        found = zip(store.passages(rows), similarities.tolist(), store.vectors.vectors(rows), strict=True)
        neighbours = [Neighbour(*one) for one in found]
    return sorted(neighbours, key=lambda one: (-one.similarity, one.passage.id or ""))


def nearest_diverse(
    store: MemoryStore,
    vector: ArrayLike,
    k: int,
    filter: Filter | None = None,  # noqa: A002
    ids: Sequence[str] | None = None,
    *,
    fetch_k: int = 20,
    lambda_mult: float = 0.5,
) -> list[Neighbour]:
    """Choose k of the `fetch_k` nearest passages by maximal marginal relevance, in the order of choosing.

    Args:
        store: Where the passages are.
        vector: Shape `(dimension,)`.
        k: How many.
        filter: Metadata that passages must have.
        ids: Passages to choose among; None means all.
        fetch_k: Candidates, at least k.
        lambda_mult: See `maximal_marginal_relevance`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: As `nearest` raises it, or fetch_k < 1.
    """
    candidates = nearest(store, vector, max(positive("k", k), positive("fetch_k", fetch_k)), filter, ids)
    if not candidates:
        return []
    chosen = maximal_marginal_relevance(vector, np.stack([one.vector for one in candidates]), k, lambda_mult)
    return [candidates[position] for position in chosen]


def _among(store: MemoryStore, ids: Sequence[str], allowed: Mask | None) -> Mask:
    rows = [row for row in store.rows_of(ids) if row is not None]
    mask = np.zeros(max(rows, default=0) + 1, dtype=np.bool_)
    mask[rows] = True
    if allowed is not None:
        shared = min(len(mask), len(allowed))
        mask[:shared] &= allowed[:shared]
        mask[shared:] = False
    return mask
