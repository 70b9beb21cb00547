"""From a question to ranked rows, each with the reason why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.retrieval.features import POOL, Evidence, Floats
from hybridmem_plugins.retrieval.linking import Question
from hybridmem_plugins.retrieval.model import Route
from hybridmem_plugins.retrieval.ranker import Ranker, default_ranker
from hybridmem_plugins.retrieval.router import Choice, Router, Situation, default_router, route_of
from hybridmem_plugins.retrieval.tiers import Tiers
from hybridmem_plugins.retrieval.walk import WALK_FEATURES, Arrival, Walked, walk


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
        found: Best first.
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
    allowed: Mask | None = None,
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
        allowed: Mask over rows; None allows all.
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
        best = [Found(row, (1 + score) / 2) for row, (_, score) in semantic.items()][:k]
        return Result(question, Choice("vector", "asked for"), best, semantic)
    base, covered = evidence.base(evidence.pool)
    strength = ranker.seed_strength(base)
    choice = Choice(route, "asked for") if route != "auto" else route_of(_situation(question, base, ranker), router)
    if choice.route == "semantic":
        walked = Walked(evidence.pool, base, np.zeros((len(base), len(WALK_FEATURES)), dtype=np.float32), {})
    else:
        walked = walk(evidence, tiers.relational, base, covered, strength, allowed)
    return Result(
        question,
        choice,
        _rank(walked, ranker, k, graph_first=choice.route == "relational"),
        semantic,
        lexical,
        dict(zip(evidence.pool, strength.tolist(), strict=True)),
        walked.arrivals,
    )


def _situation(question: Question, base: Floats, ranker: Ranker) -> Situation:
    scores = ranker.scores(base, np.zeros((len(base), len(WALK_FEATURES)), dtype=np.float32))
    order = np.argsort(-scores, kind="stable")
    top = float(scores[order[0]]) if len(order) else 0.0
    margin = top - (float(scores[order[1]]) if len(order) > 1 else 0.0)
    coverage = float(base[order[0], _COVERAGE]) if len(order) else 0.0
    return Situation(question.text, tuple(link.name for link in question.titles), top, margin, coverage)


_COVERAGE = 9


def _rank(walked: Walked, ranker: Ranker, k: int, *, graph_first: bool) -> list[Found]:
    """Order by score; passages of equal score keep the order of their rows."""
    scores = ranker.scores(walked.base, walked.features)
    alone = ranker.scores(walked.base, np.zeros_like(walked.features))
    reached = np.array([row in walked.arrivals for row in walked.rows], dtype=np.bool_)
    first = ~reached if graph_first else np.zeros(len(scores), dtype=np.bool_)
    order = np.lexsort((walked.rows, -scores, first))[:k]
    gained = _log_odds(scores) - _log_odds(alone)
    return [
        Found(walked.rows[i], float(scores[i]), float(gained[i]) if reached[i] else None) for i in order.tolist()
    ]


def _log_odds(scores: Floats) -> Floats:
    clipped = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-12)
    odds: Floats = np.log(clipped / (1 - clipped)).astype(np.float32)
    return odds
