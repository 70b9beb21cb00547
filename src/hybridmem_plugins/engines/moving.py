"""Moving a memory between a folder and an engine, and comparing the two by what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hybridmem_plugins.engines import is_address, open_engine
from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.journal import FILE_NAME
from hybridmem_plugins.memory.lexical import Floats
from hybridmem_plugins.memory.rows import Rows
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.memory.vectors import WIDEST_SEARCH
from hybridmem_plugins.retrieval.engine import retrieve
from hybridmem_plugins.retrieval.features import FIRST_STAGE
from hybridmem_plugins.retrieval.linking import read_question
from hybridmem_plugins.retrieval.tiers import BoundTiers, SemanticTier

# Questions compared unless told otherwise, and passages compared of each answer.
QUESTIONS = 50
_COMPARED = 5
_SCORE = 1e-3
# Passages asked for where answers are compared: so many that hnswlib is not used, and that pgvector overlooks few.
_WIDE = WIDEST_SEARCH


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two memories answered to the same questions.

    Attributes:
        questions: How many were asked.
        same: How many had the same five passages in the same order (equal scores in any order).
        missing: Ids that only the first memory holds, at most ten.
        extra: Ids that only the second memory holds, at most ten.
    """

    questions: int
    same: int
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs; approximate vector indexes may let one answer in twenty differ."""
        return not self.missing and not self.extra and self.same * 20 >= self.questions * 19


@contextmanager
def opened(place: str | Path, *, make: bool = False) -> Iterator[Any]:
    """Open the store of a folder or an address without an embedder: vectors are read or given, never made.

    Args:
        place: Folder or address.
        make: Whether a folder may be made.

    Raises:
        MemoryFormatError: There is no memory in the folder.
    """
    if is_address(place):
        store: Any = open_engine(str(place))
    else:
        if not make and not (Path(place) / FILE_NAME).exists():
            msg = f"{place} holds no memory ({FILE_NAME} is missing)"
            raise MemoryFormatError(msg)
        store = MemoryStore(Path(place), graph=KnowledgeGraph())
    try:
        yield store
    finally:
        store.close()


def move(source: Any, target: Any, advance: Callable[[int], object] = lambda count: None) -> int:
    """Copy all passages with their vectors and extractions; what the target holds just so is passed over.

    Nothing is embedded or extracted again. Interrupted, it can be run again and goes on.

    Args:
        source: An open store.
        target: Another one.
        advance: Called with the number of passages of each batch that was stored.

    Returns:
        The number of passages.

    Raises:
        EmbedderMismatchError: The target was made with another embedder.
    """
    total = 0
    target.set_embedder(source.embedder_known())
    for batch in source.records():
        target.load([record for record, _ in batch])
        total += len(batch)
        advance(len(batch))
    return total


def compare(first: Any, second: Any, questions: int = QUESTIONS) -> Comparison:
    """Ask two memories the same questions, made of titles and sentences of the first one, with its own vectors.

    Args:
        first: An open store.
        second: Another one.
        questions: How many.
    """
    ids, others = (_all_ids(store) for store in (first, second))
    missing, extra = sorted(set(ids) - set(others)), sorted(set(others) - set(ids))
    chosen = ids[:: max(1, len(ids) // questions)][:questions] if ids else []
    asked = list(_asked(first, chosen))
    same = sum(_alike(_answer(first, text, vector), _answer(second, text, vector)) for text, vector in asked)
    return Comparison(len(asked), same, missing[:10], extra[:10])


def _all_ids(store: Any) -> list[str]:
    with store.reading() as view:
        rows = view.matching(None)
    found: list[str] = []
    for start in range(0, len(rows), 1000):
        found += store.ids(rows[start : start + 1000])
    return found


def _asked(store: Any, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield a question for each passage, and the passage's vector in place of the question's."""
    with store.reading() as view:
        rows = [row for row in view.rows_of(ids) if row is not None]
        passages = view.passages(rows)
        vectors = view.vectors.vectors(rows) if rows else []
        # Between a passage and the next one, as questions are; nearer to one, or rounding would decide their order.
        mixed = vectors + 0.6 * np.roll(vectors, -1, axis=0) if rows else []
    for passage, vector in zip(passages, mixed, strict=True):
        words = " ".join(passage.text.split()[:10])
        unit = vector / max(float(np.linalg.norm(vector)), 1e-9)
        yield f"What has {passage.title or words} to do with {words}?", unit.astype(np.float32)


def _answer(store: Any, text: str, vector: Any) -> list[tuple[str, float]]:
    with store.steady(), store.reading() as view:
        if view.vectors is None:
            return []
        question = read_question(text, view.graph)
        named = [row for link in question.titles for row in link.info.definers]
        view.expect(vector, question.terms, FIRST_STAGE, named, None)
        tiers = BoundTiers(_Thorough(view.vectors), view.lexical, view.graph)
        found = retrieve(question, (vector, vector), tiers, _COMPARED).found[:_COMPARED]
        return list(zip(view.ids([one.row for one in found]), [one.score for one in found], strict=True))


class _Thorough:
    """A semantic tier that looks at many more passages than asked for, so that no index overlooks one of these."""

    def __init__(self, tier: SemanticTier) -> None:
        self._tier = tier
        self.similarity, self.vectors = tier.similarity, tier.vectors

    def search(self, vector: ArrayLike, k: int, allowed: Any = None) -> tuple[Rows, Floats]:
        rows, scores = self._tier.search(vector, max(k, _WIDE), allowed)
        return rows[:k], scores[:k]


def _alike(first: list[tuple[str, float]], second: list[tuple[str, float]]) -> bool:
    """Say whether two answers agree; passages of nearly equal score may change places."""
    if len(first) != len(second):
        return False
    return all(
        abs(score - other_score) < _SCORE and (identity == other or _tied(first, score))
        for (identity, score), (other, other_score) in zip(first, second, strict=True)
    )


def _tied(answer: list[tuple[str, float]], score: float) -> bool:
    """Say whether another passage has nearly this score, or the answer ends with it."""
    return sum(abs(score - other) < _SCORE for _, other in answer) > 1 or answer[-1][1] == score
