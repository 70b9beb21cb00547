"""From seeds over names to the passages that belong with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridmem_plugins.memory.graph import Step
from hybridmem_plugins.memory.rows import Mask
from hybridmem_plugins.retrieval.features import Evidence, Floats
from hybridmem_plugins.retrieval.tiers import RelationalTier

# For each kind of step: how strong the best one is, that times what the target covers of the question beyond the
# source, and that times how much the target is like what is asked about the names.
WALK_FEATURES = tuple(f"{kind}{what}" for kind in ("forward", "backward", "shared") for what in ("", "_new", "_rest"))
_FIRST_COLUMN = {"forward": 0, "backward": 3, "shared": 6}

SEEDS = 8
# Passages found at the first hop from which the walk goes on, and what a hop costs.
SECOND_HOP_SEEDS = 5
HOP_DECAY = 0.5
# Targets of one name that are followed, those most like the question first.
MAX_TARGETS = 5
# Passages that the walk may add, the most strongly linked first.
MAX_FOUND = 120


@dataclass(frozen=True, slots=True)
class Arrival:
    """The strongest way that a walk found to a passage."""

    strength: float
    step: Step
    hops: int


@dataclass(frozen=True, slots=True)
class Walked:
    """What a walk found.

    Attributes:
        rows: The pool, then what the walk added.
        base: Base features, shape `(rows, base features)`.
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
    evidence: Evidence, graph: RelationalTier, base: Floats, covered: Floats, strength: Floats, allowed: Mask | None
) -> Walked:
    """Walk one or two hops from the strongest passages of the pool.

    Args:
        evidence: Compares passages with the question; its pool is where the walk starts.
        graph: Where the steps are.
        base: Base features of the pool.
        covered: Words of the question that the pool's passages have (see `Evidence.base`).
        strength: How likely each passage of the pool answers, in (0, 1], the best being 1.
        allowed: Mask over rows; None allows all.
    """
    walker = _Walker(evidence, base, covered)
    seeds = np.lexsort((evidence.pool, -strength))[:SEEDS]
    start = {evidence.pool[i]: float(strength[i]) for i in seeds}
    walker.follow(graph.neighbourhood(list(start), allowed=allowed), start, hops=1)
    onward = walker.strongest(SECOND_HOP_SEEDS, start)
    if onward:
        walker.follow(graph.neighbourhood(list(onward), ("forward",), allowed), onward, hops=2)
    return walker.result()


def no_walk(evidence: Evidence, base: Floats, covered: Floats) -> Walked:
    """Return what a walk would that never left the pool."""
    return Walked(evidence.pool, base, covered, np.zeros((len(base), len(WALK_FEATURES)), dtype=np.float32), {})


class _Walker:
    def __init__(self, evidence: Evidence, base: Floats, covered: Floats) -> None:
        self._evidence = evidence
        self._rows = list(evidence.pool)
        self._index = {row: i for i, row in enumerate(self._rows)}
        self._base, self._covered = base, covered
        self._features = np.zeros((len(self._rows), len(WALK_FEATURES)), dtype=np.float32)
        self._arrivals: dict[int, Arrival] = {}

    def follow(self, steps: Sequence[Step], strength: dict[int, float], hops: int) -> None:
        """Take steps from sources of known strength."""
        weights = [strength[step.source] * _damping(step) for step in steps]
        self._meet(steps, weights)
        taken = [i for i, step in enumerate(steps) if step.target in self._index]
        if not taken:
            return
        steps, weight = [steps[i] for i in taken], np.array([weights[i] for i in taken], dtype=np.float32)
        keep = self._closest(steps)
        steps, weight = [steps[i] for i in keep], weight[keep]
        source = np.array([self._index[step.source] for step in steps])
        target = np.array([self._index[step.target] for step in steps])
        column = np.array([_FIRST_COLUMN[step.kind] for step in steps])
        new = np.maximum(self._covered[target] - self._covered[source], 0).sum(axis=1)
        rest = np.maximum(self._base[target, _REST], 0)
        for offset, value in enumerate((weight, weight * new, weight * rest)):
            np.maximum.at(self._features, (target, column + offset), value)
        for step, value in zip(steps, (weight * (1 + new + rest)).tolist(), strict=True):
            old = self._arrivals.get(step.target)
            if old is None or value > old.strength:
                self._arrivals[step.target] = Arrival(value, step, hops)

    def strongest(self, count: int, seeds: dict[int, float]) -> dict[int, float]:
        """Return the passages found by stepping forward or back, and how strong they are as seeds."""
        strength = HOP_DECAY * self._features[:, [0, 3]].max(axis=1)
        candidates = [(self._rows[i], float(strength[i])) for i in np.flatnonzero(strength).tolist()]
        ranked = sorted((-value, row) for row, value in candidates if seeds.get(row, 0.0) < 0.5)
        return {row: -value for value, row in ranked[:count]}

    def result(self) -> Walked:
        return Walked(self._rows, self._base, self._covered, self._features, self._arrivals)

    def _meet(self, steps: Sequence[Step], weights: Sequence[float]) -> None:
        """Compare the strongest new targets with the question."""
        best: dict[int, float] = {}
        for step, weight in zip(steps, weights, strict=True):
            if step.target not in self._index and weight > best.get(step.target, 0.0):
                best[step.target] = weight
        rows = sorted(best, key=lambda row: (-best[row], row))[:MAX_FOUND]
        if not rows:
            return
        base, covered = self._evidence.base(rows)
        self._index.update((row, len(self._rows) + i) for i, row in enumerate(rows))
        self._rows.extend(rows)
        self._base = np.concatenate([self._base, base])
        self._covered = np.concatenate([self._covered, covered])
        self._features = np.concatenate([self._features, np.zeros((len(rows), len(WALK_FEATURES)), dtype=np.float32)])

    def _closest(self, steps: Sequence[Step]) -> list[int]:
        """Keep, of the many passages that define one name, those most like the question."""
        groups: dict[tuple[int, str], list[int]] = {}
        kept = []
        for i, step in enumerate(steps):
            if step.kind == "forward":
                groups.setdefault((step.source, step.name), []).append(i)
            else:
                kept.append(i)
        for group in groups.values():
            if len(group) > MAX_TARGETS:
                group.sort(key=lambda i: (-float(self._base[self._index[steps[i].target], _SIMILARITY]), steps[i].target))
            kept += group[:MAX_TARGETS]
        return sorted(kept)


_SIMILARITY, _REST = 0, 7


def _damping(step: Step) -> float:
    """Return how much a step is worth: much said names and names of many things say little."""
    if step.kind == "forward":
        return 1 / (1 + math.log1p(step.mentions) / 4) / math.sqrt(max(1, step.meanings))
    if step.kind == "backward":
        return 1 / (1 + math.log1p(step.mentions))
    return 1 / math.sqrt(max(1, step.mentions))
