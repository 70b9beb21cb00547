"""From a question to ranked rows, each with the reason why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.retrieval.features import BASE_FEATURES, POOL, Evidence, Floats, named_features, sure_features
from hybridmem_plugins.retrieval.linking import Question
from hybridmem_plugins.retrieval.model import Route
from hybridmem_plugins.retrieval.ranker import FEATURES, Ranker, default_ranker
from hybridmem_plugins.retrieval.router import Choice, Router, Situation, default_router, route_of
from hybridmem_plugins.retrieval.tiers import Tiers
from hybridmem_plugins.retrieval.walk import WALK_FEATURES, Arrival, Walked, no_walk, walk


@dataclass(frozen=True, slots=True)
class Found:
    """A ranked passage.

    Attributes:
        row: Its row.
        score: In (0, 1), higher is better.
        graph_score: What the walk added to its rank, in log-odds; None where no step led to it.
    """

    row: int
    score: float
    graph_score: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a search, before texts are read.

    Attributes:
        question: The question, read.
        choice: The route taken.
        found: Best first; more than were asked for where scores tie.
        semantic: Rank (from 0) and cosine similarity of what the vectors found.
        lexical: Rank (from 0) and BM25 score of what the words found.
        strength: How strong each passage of the pool is as a seed, in (0, 1].
        arrivals: How the walk came to each passage.
    """

    question: Question
    choice: Choice
    found: list[Found] = field(default_factory=list)
    semantic: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    lexical: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    strength: Mapping[int, float] = field(default_factory=dict)
    arrivals: Mapping[int, Arrival] = field(default_factory=dict)


def retrieve(
    question: Question,
    vectors: tuple[Floats, Floats],
    tiers: Tiers,
    k: int,
    *,
    allowed: Any = None,
    route: Route = "auto",
    router: Router = default_router,
    ranker: Ranker | None = None,
) -> Result:
    """Rank the passages of a memory for a question.

    Args:
        question: The question, read.
        vectors: Unit vectors of the question and of what it asks about its titles.
        tiers: Where the passages are.
        k: How many passages to return; fewer only where fewer are allowed.
        allowed: The filter as the store's `allowed` gave it; None allows all.
        route: `auto` asks the router; `semantic` fuses vectors and words, `relational` puts what the graph reaches
            first, `both` weighs all; `vector` is the vector tier alone, for comparison.
        router: Chooses for `auto`.
        ranker: Weighs the evidence; None takes the shipped one.
    """
    ranker = ranker or default_ranker()
    evidence = Evidence(question, *vectors, tiers, allowed, size=max(k, POOL))
    semantic = dict(zip(evidence.semantic.rows.tolist(), enumerate(evidence.semantic.scores.tolist()), strict=True))
    lexical = dict(zip(evidence.lexical.rows.tolist(), enumerate(evidence.lexical.scores.tolist()), strict=True))
    if route == "vector":
        best = [Found(row, round((1 + score) / 2, 9)) for row, (_, score) in semantic.items()]
        return Result(question, Choice("vector", "asked for"), best, semantic)
    base, covered = evidence.base(evidence.pool)
    strength = ranker.seed_strength(base)
    choice = Choice(route, "asked for") if route != "auto" else route_of(_situation(question, base, ranker), router)
    if choice.route == "semantic":
        walked = no_walk(evidence, base, covered)
    else:
        walked = walk(evidence, tiers.relational, base, covered, strength, allowed)
    top = strongest(evidence, strength)
    features = all_features(evidence, walked, top)
    return Result(
        question,
        choice,
        _rank(walked, features, ranker, k, top, None if choice.route == "relational" else _nearest(evidence)),
        semantic,
        lexical,
        dict(zip(evidence.pool, strength.tolist(), strict=True)),
        walked.arrivals,
    )


# The passage nearest to the question, where it is among the first eight, rises to the first five.
NEAREST_SEEN, NEAREST_STAYS = 8, 5
_SAME = 1e-6  # what single-precision sums may differ by


def all_features(evidence: Evidence, walked: Walked, top: int) -> Floats:
    """Return the features of every passage of a walk, shape `(rows, len(FEATURES))`; `top` is from `strongest`."""
    if not walked.rows:
        return np.zeros((0, len(FEATURES)), dtype=np.float32)
    beyond = evidence.beyond(walked.rows, walked.covered, walked.rows[top], walked.covered[top])
    sure = sure_features(walked.base, evidence.semantic.scores)
    return np.hstack([walked.base, beyond, named_features(walked.base), sure, walked.features])


def strongest(evidence: Evidence, strength: Floats) -> int:
    """Return where in the pool the strongest passage is; 0 where the pool is empty."""
    return int(np.lexsort((np.array(evidence.pool), -strength))[0]) if evidence.pool else 0


def _situation(question: Question, base: Floats, ranker: Ranker) -> Situation:
    likelihood = ranker.seed_likelihood(base)
    best = np.sort(likelihood)[::-1]
    return Situation(
        question.text,
        tuple(link.name for link in question.titles),
        confidence=float(best[0]) if len(base) else 0.0,
        margin=float(best[0] - best[1]) if len(base) > 1 else 0.0,
        coverage=float(base[np.argmax(likelihood), _COVERAGE]) if len(base) else 0.0,
    )


_COVERAGE = BASE_FEATURES.index("coverage")
_WALK_START = len(FEATURES) - len(WALK_FEATURES)


def _nearest(evidence: Evidence) -> int:
    return int(evidence.semantic.rows[0]) if len(evidence.semantic.rows) else 0


def _rank(walked: Walked, features: Floats, ranker: Ranker, k: int, top: int, nearest: int | None) -> list[Found]:
    """Order by score and keep k, with all that tie with the last.

    Args:
        walked: What was found.
        features: Of each row of it.
        ranker: Weighs them.
        k: How many to keep.
        top: Where in it the strongest passage is.
        nearest: Row of the passage nearest to the question, which may rise; None puts what the graph reached first.
    """
    rows = np.array(walked.rows)
    scores = ranker.scores(features).astype(np.float64).round(9)
    if len(scores):
        _raise(scores, features[:, : len(BASE_FEATURES)], top)
    gained = features[:, _WALK_START:] @ ranker.weights[_WALK_START:]
    reached = np.array([row in walked.arrivals for row in walked.rows], dtype=np.bool_)
    last = ~reached if nearest is None else np.zeros(len(scores), dtype=np.bool_)
    if nearest is not None:
        _lift(scores, rows, nearest)
    order = np.lexsort((rows, -scores, last))
    while k < len(order) and (last[order[k]], scores[order[k]]) == (last[order[k - 1]], scores[order[k - 1]]):
        k += 1
    order = order[:k]
    return [Found(walked.rows[i], float(scores[i]), float(gained[i]) if reached[i] else None) for i in order.tolist()]


def _raise(scores: NDArray[np.float64], base: Floats, top: int) -> None:
    """Let the strongest passage, and its copies, pass those that are nowhere more like the question, in place.

    What a passage adds to the strongest one is no reason to put it first where it is the same but for a detail that
    the question asks for: the version before, the next line of a table.
    """
    weaker = (base <= base[top] + _SAME).all(axis=1)
    copies = weaker & (base >= base[top] - _SAME).all(axis=1)
    best = scores[weaker & ~copies].max(initial=0.0)
    scores[copies] = np.maximum(scores[copies], min(best + 1e-9, 1.0)).round(9)


def _lift(scores: NDArray[np.float64], rows: NDArray[np.int64], nearest: int) -> None:
    """Let the nearest passage rise from the first `NEAREST_SEEN` to the first `NEAREST_STAYS`, in place.

    What a strong embedding is sure of must not drown in what words and graph have to say (docs/retrieval.md has the
    figures), and one place costs little where it is wrong.
    """
    mine = np.flatnonzero(rows == nearest)
    if not len(mine):
        return
    others = np.sort(np.delete(scores, mine))[::-1]
    rank = int(np.count_nonzero(others > scores[mine[0]]))  # from 0
    if NEAREST_STAYS <= rank < NEAREST_SEEN:
        scores[mine] = (others[NEAREST_STAYS - 2] + others[NEAREST_STAYS - 1]) / 2
