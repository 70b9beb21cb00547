"""What retrieval asks of a memory: small protocols, read in batches.

The embedded tiers (`VectorIndex`, `LexicalIndex`, `KnowledgeGraph`) fulfil them; so may any engine that addresses a
passage by a positive number, its row. `allowed` is what the store's `allowed` made of a filter, for example a mask over
rows or a condition in SQL; retrieval passes it on and does not look into it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import ArrayLike

from hybridmem_plugins.memory.lexical import Floats
from hybridmem_plugins.memory.rows import Rows
from hybridmem_plugins.memory.steps import ALL_KINDS, NameInfo, StepKind, Steps


class SemanticTier(Protocol):
    """Finds passages by the direction of their vectors."""

    def search(self, vector: ArrayLike, k: int, allowed: Any = None) -> tuple[Rows, Floats]:
        """Return the k rows nearest to a vector and their cosine similarities, best first."""
        ...

    def similarity(self, vector: ArrayLike, rows: Sequence[int] | Rows) -> Floats:
        """Return the cosine similarity of a vector to each row."""
        ...

    def vectors(self, rows: Sequence[int] | Rows) -> Floats:
        """Return the unit vectors of rows, shape `(rows, dimension)`."""
        ...


class LexicalTier(Protocol):
    """Finds passages by their words."""

    def search(self, tokens: Sequence[str], k: int, allowed: Any = None) -> tuple[Rows, Floats]:
        """Return the k rows with the highest BM25 scores, best first."""
        ...

    def gains(self, tokens: Sequence[str], rows: Sequence[int] | Rows, allowed: Any = None) -> Floats:
        """Return what each of some distinct tokens adds to the score of each row, shape `(rows, tokens)`."""
        ...

    def idf(self, tokens: Sequence[str], allowed: Any = None) -> Floats:
        """Return how telling each token is among the allowed passages."""
        ...

    def __len__(self) -> int:
        """Return the number of passages."""
        ...


class RelationalTier(Protocol):
    """Finds passages by the names that join them."""

    def names(self, names: Collection[str], allowed: Any = None) -> Mapping[str, NameInfo]:
        """Return what is known of each of these names."""
        ...

    def similar_names(self, names: Sequence[str], allowed: Any = None) -> Mapping[str, str]:
        """Return, for misspelt names, the defined ones that are closest; names that are close to none are left out."""
        ...

    def neighbourhood(self, rows: Sequence[int], kinds: Collection[StepKind] = ALL_KINDS, allowed: Any = None) -> Steps:
        """Return the steps that lead from many passages to others."""
        ...


class Tiers(Protocol):
    """The three ways to a passage."""

    @property
    def semantic(self) -> SemanticTier:
        """The vector index."""
        ...

    @property
    def lexical(self) -> LexicalTier:
        """The word index."""
        ...

    @property
    def relational(self) -> RelationalTier:
        """The knowledge graph."""
        ...


@dataclass(frozen=True, slots=True)
class BoundTiers:
    """Three tiers of one memory, put together."""

    semantic: SemanticTier
    lexical: LexicalTier
    relational: RelationalTier
