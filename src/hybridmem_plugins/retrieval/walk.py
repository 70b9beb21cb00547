"""From seeds over names to the passages that belong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.steps import ALL_KINDS, Link, StepKind, Steps
from hybridmem_plugins.retrieval.features import BASE_FEATURES, Evidence, Floats, crowding
from hybridmem_plugins.retrieval.tiers import RelationalTier

# For each kind of step: how strong the best one is, that times what the target covers of the question beyond the
# source, and that times how much the target is like what is asked about the names.
WALK_FEATURES = tuple(f"{kind}{what}" for kind in ALL_KINDS for what in ("", "_new", "_rest"))
_COLUMN = {"forward": 0, "backward": 3, "shared": 6}
_SIMILARITY, _REST = BASE_FEATURES.index("similarity"), BASE_FEATURES.index("similarity_rest")

SEEDS = 8
# Passages found at the first hop from which the walk goes on, and what a hop costs.
SECOND_HOP_SEEDS = 2
HOP_DECAY = 0.5
_ONWARD: tuple[StepKind, ...] = ("forward",)
# Targets of one name that are followed, those most like the question first.
MAX_TARGETS = 5
# Passages that each hop may add, the most strongly linked first.
MAX_FOUND = 60


@dataclass(frozen=True, slots=True)
class Arrival:
    """The strongest way that a walk found to a passage.

    Attributes:
        source: Row that the last step came from.
        link: What joins the two.
        hops: Number of steps from a passage that the question itself found.
    """

    source: int
    link: Link
    hops: int


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found.

    Attributes:
        rows: The pool, then what the walk added.
        base: Base features, shape `(rows, len(BASE_FEATURES))`.
        covered: Weighted words of the question that each passage has, shape `(rows, terms)`.
        features: Walk features, shape `(rows, len(WALK_FEATURES))`.
        arrivals: The best way to each passage that a step led to.
    """

    rows: list[int]
    base: Floats
    covered: Floats
    features: Floats
    arrivals: dict[int, Arrival]


def walk(
    evidence: Evidence, graph: RelationalTier, base: Floats, covered: Floats, strength: Floats, allowed: Any
) -> Walked:
    """Walk one or two hops from the strongest passages of the pool.

    Args:
        evidence: Compares passages with the question; its pool is where the walk starts.
        graph: Where the steps are.
        base: Base features of the pool.
        covered: Words of the question that the pool's passages have (see `Evidence.base`).
        strength: How much to trust each passage of the pool, in (0, 1].
        allowed: The filter as the store's `allowed` gave it; None allows all.
    """
    walker = _Walker(evidence, base, covered)
    seeds = np.lexsort((np.array(evidence.pool), -strength))[:SEEDS].tolist()
    start = {evidence.pool[i]: float(strength[i]) for i in seeds}
    walker.follow(graph.neighbourhood(list(start), allowed=allowed), start, hops=1)
    onward = walker.strongest(SECOND_HOP_SEEDS, start)
    if onward:
        walker.follow(graph.neighbourhood(list(onward), _ONWARD, allowed), onward, hops=2)
    return walker.result()


def no_walk(evidence: Evidence, base: Floats, covered: Floats) -> Walked:
    """Return what a walk would that never left the pool."""
    return _Walker(evidence, base, covered).result()


class _Walker:
    def __init__(self, evidence: Evidence, base: Floats, covered: Floats) -> None:
        self._evidence = evidence
        self._rows = list(evidence.pool)
        self._index = {row: i for i, row in enumerate(self._rows)}
        self._base, self._covered = base, covered
        self._features = np.zeros((len(self._rows), len(WALK_FEATURES)), dtype=np.float32)
        self._arrivals: dict[int, tuple[float, Arrival]] = {}

    def follow(self, steps: Steps, strength: dict[int, float], hops: int) -> None:
        """Take steps from sources of known strength."""
        if not len(steps):
            return
        columns = np.array([_COLUMN[link.kind] for link in steps.links])
        weight = np.array([strength[row] for row in steps.source.tolist()])
        weight *= _damping(steps.links, columns)[steps.link]
        self._meet(steps.target, weight)
        target = np.array([self._index.get(row, -1) for row in steps.target.tolist()])
        kept = np.flatnonzero(target >= 0)
        closest, ranks = self._closest(steps.link[kept], target[kept])
        kept = kept[closest]
        target, link = target[kept], steps.link[kept]
        column = columns[link]
        crowded = np.where(column == _COLUMN["forward"], crowding(ranks), 1.0)
        weight = (weight[kept] * crowded).astype(np.float32)
        source = np.array([self._index[row] for row in steps.source[kept].tolist()], dtype=np.int64)
        new = np.maximum(self._covered[target] - self._covered[source], 0).sum(axis=1)
        rest = np.maximum(self._base[target, _REST], 0)
        flat, place = self._features.reshape(-1), target * len(WALK_FEATURES) + column
        for offset, value in enumerate((weight, weight * new, weight * rest)):
            np.maximum.at(flat, place + offset, value)  # with one index in half the time that two take
        self._arrive(target, source, link, steps.links, weight * (1 + new + rest), hops)

    def strongest(self, count: int, seeds: dict[int, float]) -> dict[int, float]:
        """Return the passages found by stepping forward or back, and how strong they are as seeds."""
        strength = HOP_DECAY * self._features[:, [0, 3]].max(axis=1, initial=0)
        # Of two as strong, the one more like the question: rows tell only which was added first.
        candidates = [(-float(strength[i]), -float(self._base[i, _SIMILARITY]), self._rows[i])
                      for i in np.flatnonzero(strength).tolist()]  # fmt: skip
        ranked = sorted(found for found in candidates if seeds.get(found[-1], 0.0) < 0.5)
        return {row: -value for value, _, row in ranked[:count]}

    def result(self) -> Walked:
        arrivals = {row: arrival for row, (_, arrival) in self._arrivals.items()}
        return Walked(self._rows, self._base, self._covered, self._features, arrivals)

    def _meet(self, target: NDArray[np.int64], weight: NDArray[np.float64]) -> None:
        """Compare the strongest new targets with the question."""
        rows, owner = np.unique(target, return_inverse=True)
        best = np.zeros(len(rows))
        np.maximum.at(best, owner, weight)
        order = np.lexsort((rows, -best))
        new = [row for row in rows[order].tolist() if row not in self._index][:MAX_FOUND]
        if not new:
            return
        base, covered = self._evidence.base(new)
        self._index.update((row, len(self._rows) + i) for i, row in enumerate(new))
        self._rows.extend(new)
        self._base = np.concatenate([self._base, base])
        self._covered = np.concatenate([self._covered, covered])
        self._features = np.concatenate([self._features, np.zeros((len(new), len(WALK_FEATURES)), dtype=np.float32)])

    def _closest(
        self, link: NDArray[np.int64], target: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Keep, of the many passages that one link leads to, those most like the question; return their ranks, too."""
        order = np.lexsort((target, -self._base[target, _SIMILARITY], link))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - np.searchsorted(link[order], link[order])
        kept = np.flatnonzero(ranks < MAX_TARGETS)
        return kept, ranks[kept]

    def _arrive(
        self,
        target: NDArray[np.int64],
        source: NDArray[np.int64],
        link: NDArray[np.int64],
        links: list[Link],
        value: Floats,
        hops: int,
    ) -> None:
        """Remember the strongest way to each target."""
        order = np.lexsort((source, -value, target))
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = target[order][1:] != target[order][:-1]
        best = order[first]
        ways = zip(*(column[best].tolist() for column in (target, source, link, value)), strict=True)
        for place, origin, name, strength in ways:
            row = self._rows[place]
            if row not in self._arrivals or strength > self._arrivals[row][0]:
                self._arrivals[row] = strength, Arrival(self._rows[origin], links[name], hops)


def _damping(links: list[Link], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how much each link is worth: much said names and names of many things say little.

    Args:
        links: The links.
        columns: The first column of each link's kind.
    """
    mentions = np.array([max(1, link.mentions) for link in links], dtype=np.float64)
    meanings = np.array([max(1, link.meanings) for link in links], dtype=np.float64)
    forward = 1 / (1 + np.log1p(mentions) / 4) / np.sqrt(meanings)
    others = mentions ** np.where(columns == _COLUMN["backward"], -1.0, -0.5)
    return np.where(columns == _COLUMN["forward"], forward, others)
