"""What a question and a passage have in common, as numbers between 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.rows import Rows
from hybridmem_plugins.retrieval.linking import LinkedName, Question
from hybridmem_plugins.retrieval.tiers import Tiers

Floats = NDArray[np.float32]

# Passages that each of the vector and the word index proposes.
FIRST_STAGE = 50
# Of them, those that may seed the walk or be ranked when more are not asked for.
POOL = 20
# Passages kept of a name that more define, those most similar to the question first.
MAX_PER_NAME = 10

BASE_FEATURES = (
    "similarity",
    "similarity_rank",
    "words",
    "words_rank",
    "link",
    "link_cased",
    "similarity_rest",
    "coverage",
)
_NO_LINK = (0.0, 0.0)
# The similarity's rank once more, times how far the passage stands above the last that the vectors propose: a strong
# embedding sets what answers apart from the crowd, and is to be trusted where it does.
SURE_FEATURES = ("similarity_rank_sure",)
# What a passage adds to the strongest one: two passages alike answer one half of a question twice.
BEYOND_FEATURES = ("beyond_words", "beyond_similarity")
# Ranks again where the question names something: there, being the likest of all says less.
NAMED_FEATURES = ("similarity_rank_named", "words_rank_named")
_RANKS = [BASE_FEATURES.index("similarity_rank"), BASE_FEATURES.index("words_rank")]
_SIMILARITY = BASE_FEATURES.index("similarity")
_CASED = BASE_FEATURES.index("link_cased")


@dataclass(frozen=True, slots=True)
class Ranking:
    """What one index found, best first.

    Attributes:
        rows: Shape `(n,)`.
        scores: Shape `(n,)`.
    """

    rows: Rows
    scores: Floats

    def ranks(self) -> dict[int, int]:
        """Return the rank of each row, from 0; equal scores have equal ranks."""
        ranks = np.searchsorted(-self.scores, -self.scores)
        return dict(zip(self.rows.tolist(), ranks.tolist(), strict=True))


class Evidence:
    """Compares passages with one question; each passage is looked at once.

    Args:
        question: The question, read.
        vector: Its unit vector, shape `(dimension,)`.
        rest_vector: The unit vector of the question without its titles.
        tiers: Where the passages are.
        allowed: The filter as the store's `allowed` gave it; None allows all.
        size: Passages that each index proposes.
    """

    def __init__(
        self,
        question: Question,
        vector: Floats,
        rest_vector: Floats,
        tiers: Tiers,
        allowed: Any,
        size: int = POOL,
    ) -> None:
        self.question = question
        self._tiers = tiers
        self._vector, self._rest_vector = vector, rest_vector
        depth = max(size, FIRST_STAGE)
        self.semantic = Ranking(*tiers.semantic.search(vector, depth, allowed))
        self.lexical = Ranking(*tiers.lexical.search(question.terms, depth, allowed))
        self._semantic_ranks, self._lexical_ranks = self.semantic.ranks(), self.lexical.ranks()
        self._allowed = allowed
        self._idf = tiers.lexical.idf(question.terms, allowed)
        self._links = self._link_weights()
        proposed = [*self.semantic.rows[:size].tolist(), *self.lexical.rows[:size].tolist(), *self._links]
        self.pool: list[int] = list(dict.fromkeys(proposed))
        self._share = (self._idf / self._idf.sum()).astype(np.float32)
        self._top_rest: float | None = None
        self._place: dict[int, int] = {}  # of each passage looked at, in what follows
        self._units: list[Floats] = []
        self._similarity: list[Floats] = []

    def base(self, rows: Sequence[int]) -> tuple[Floats, Floats]:
        """Compare passages with the question.

        Args:
            rows: Rows; the pool has to be asked for before others, since it sets the scale.

        Returns:
            The features, shape `(rows, len(BASE_FEATURES))`, and which of the question's words each passage has,
            weighted by how telling they are, shape `(rows, terms)`, one row summing to at most 1.
        """
        gains = self._tiers.lexical.gains(self.question.terms, rows, self._allowed)
        similarity, rest_similarity = self._compare(rows)
        if self._top_rest is None:
            self._top_rest = max(float(rest_similarity.max(initial=0)), 1e-6)
        covered = (gains > 0) * self._share
        features = np.zeros((len(rows), len(BASE_FEATURES)), dtype=np.float32)
        features[:, 0] = similarity / max(float(self.semantic.scores.max(initial=0)), 1e-6)
        features[:, 1] = _reciprocal_ranks(rows, self._semantic_ranks)
        features[:, 2] = gains.sum(axis=1) / max(float(self.lexical.scores.max(initial=0)), 1e-6)
        features[:, 3] = _reciprocal_ranks(rows, self._lexical_ranks)
        for place, row in enumerate(rows):
            if row in self._links:  # few are
                features[place, 4:6] = self._links[row]
        features[:, 6] = rest_similarity / self._top_rest
        features[:, 7] = covered.sum(axis=1)
        return np.clip(features, -1, 1, out=features), covered

    def _compare(self, rows: Sequence[int]) -> tuple[Floats, Floats]:
        """Return how alike passages are to the question and to what it asks about its titles."""
        units = self._tiers.semantic.vectors(rows)
        # Not `@`: what it adds up to depends on how many rows there are (see `VectorIndex`).
        similarity = np.vecdot(units, self._vector)
        alone = self._rest_vector is self._vector
        rest_similarity = similarity if alone else np.vecdot(units, self._rest_vector)
        known = sum(map(len, self._units))
        self._place.update((row, known + i) for i, row in enumerate(rows))
        self._units.append(units)
        self._similarity.append(similarity)
        return similarity, rest_similarity

    def beyond(self, rows: Sequence[int], covered: Floats, top: int, top_covered: Floats) -> Floats:
        """Compare passages with what the strongest one leaves open.

        For that one itself, and exact copies of it, the whole question is open.
        The similarity is the one to the part of the question's vector that is orthogonal to the strongest passage, as
        in orthogonal matching pursuit (Pati, Rezaiifar and Krishnaprasad, 1993).

        Args:
            rows: Rows.
            covered: Their weighted words (see `base`), shape `(rows, terms)`.
            top: Row of the strongest passage.
            top_covered: Its weighted words, shape `(terms,)`.

        Returns:
            Shape `(rows, len(BEYOND_FEATURES))`.
        """
        places = np.array([self._place[row] for row in rows])
        units, similarity = np.concatenate(self._units)[places], np.concatenate(self._similarity)[places]
        top_vector = units[rows.index(top)]
        cosine = float(top_vector @ self._vector)
        alike = np.vecdot(units, top_vector)
        left = (similarity - cosine * alike) / max(max(1 - cosine**2, 0.0) ** 0.5, 0.1)
        words = np.maximum(covered - top_covered, 0).sum(axis=1)
        own = (np.array(rows) == top) | ((alike > 1 - 1e-6) & (covered == top_covered).all(axis=1))
        left[own], words[own] = similarity[own], covered[own].sum(axis=1)
        return np.stack([words, np.clip(left, -1, 1)], axis=1).astype(np.float32)

    def _link_weights(self) -> dict[int, tuple[float, float]]:
        """Return, for the passages that define a title in the question, its share of the question and its clarity."""
        weights: dict[int, tuple[float, float]] = {}
        idf = dict(zip(self.question.terms, self._idf.tolist(), strict=True))
        total = sum(idf.values()) or 1.0
        for link in self.question.titles:
            share = min(1.0, sum(idf.get(token, 0.0) for token in self._tokens(link)) / total)
            clarity = link.cased / link.info.meanings**0.5
            for row, kept in zip(*self._closest(link), strict=True):
                old = weights.get(row, _NO_LINK)
                weights[row] = max(old[0], share * kept), max(old[1], clarity * kept)
        return weights

    def _tokens(self, link: LinkedName) -> tuple[str, ...]:
        return self.question.tokens[link.start : link.end]

    def _closest(self, link: LinkedName) -> tuple[list[int], list[float]]:
        """Return the passages that a name means, those most like the question first, and what each keeps of it."""
        rows = list(link.info.definers)
        if len(rows) > 1:
            similarity = self._tiers.semantic.similarity(self._vector, rows)
            rows = [rows[i] for i in np.lexsort((np.array(rows), -similarity))[:MAX_PER_NAME]]
        return rows, crowding(np.arange(len(rows))).tolist()


def crowding(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what passages that one name leads to keep of its weight, by rank from 0.

    The chunks of one document share its title: were each worth as much as the best, they would crowd out the others.

    >>> crowding(np.arange(4)).round(2).tolist()
    [1.0, 0.71, 0.58, 0.5]
    """
    kept: NDArray[np.float64] = 1 / np.sqrt(1.0 + ranks)
    return kept


def sure_features(base: Floats, scores: Floats) -> Floats:
    """Return `SURE_FEATURES` from base features.

    Args:
        base: Base features of passages.
        scores: What the vectors proposed, as cosine similarities, best first.
    """
    top, crowd = float(scores.max(initial=0)), float(scores[:FIRST_STAGE].min(initial=1))
    above = base[:, _SIMILARITY] * max(top, 1e-6) - crowd
    sure: Floats = (base[:, _RANKS[:1]] * np.clip(2 * above, 0, 1)[:, None]).astype(np.float32)
    return sure


def named_features(base: Floats) -> Floats:
    """Return `NAMED_FEATURES` from base features: the ranks, as far as the question clearly says a name."""
    named: Floats = base[:, _RANKS] * base[:, _CASED].max(initial=0)
    return named


def _reciprocal_ranks(rows: Sequence[int], ranks: Mapping[int, int]) -> list[float]:
    return [1 / (1 + ranks[row] / 3) if row in ranks else 0.0 for row in rows]
