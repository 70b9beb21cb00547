"""A recipe that makes contexts like those a profile was learnt from, whatever noise the chunks already have."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from hybridmem_plugins.augmentation.detectors import detect
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.profile import RANK_BANDS, SEVERITY_BANDS, NoiseProfile, band, named
from hybridmem_plugins.augmentation.recipe import ContextPlan, FixedRecipe, application_order
from hybridmem_plugins.passage import Passage

Pattern = frozenset[str]
"""What a passage shows: operators with their band of severity, as in "nbsp:light"."""

_SAMPLE = 3000
"""Chunks looked at to learn how noisy they already are."""


class ProfileRecipe:
    """Samples contexts from a profile.

    What a passage should show is drawn from the profile's patterns. Chunks already show some noise of their own, and
    some operators find nothing to do in them (a table cannot be lost where there is none). So the drawing is
    conditional on what a chunk shows and allows, balanced (iterative proportional fitting, Deming and Stephan 1940) so
    that all chunks together give the profile's pattern frequencies.
    """

    def __init__(self, profile: NoiseProfile, chunks: Sequence[Passage]) -> None:
        """Learn how noisy the chunks are and balance the drawing against the profile."""
        self._profile = profile
        self._patterns = [frozenset(filter(None, name.split("+"))) for name in profile.together]
        counts = np.array(list(profile.together.values()), dtype=float)
        self._wanted = counts / counts.sum() if len(counts) else counts
        self._traces = sorted(set().union(*self._patterns)) if self._patterns else []
        self._state = lru_cache(maxsize=50_000)(self._look)
        self._units = lru_cache(maxsize=50_000)(_count_units)
        stride = max(1, len(chunks) // _SAMPLE)
        states = Counter(self._state(chunk.title, chunk.text) for chunk in chunks[::stride])
        self._drawing = self._balanced(states)
        self._default = FixedRecipe()

    def _look(self, title: str | None, text: str) -> tuple[Pattern, Pattern]:
        """Say what a chunk shows, and what the profile's operators could add to it."""
        found = detect(Passage(text, title))
        possible = frozenset(trace for trace in self._traces if self._can_show(trace, found, title, text))
        return frozenset(named(found)), possible

    def _can_show(self, trace: str, found: Mapping[str, float], title: str | None, text: str) -> bool:
        """Tell whether changing a whole number of units can bring a chunk into the trace's band of severity."""
        name, _, where = trace.partition(":")
        units = 0 if name in found else self._units(name, title, text)
        if OPERATORS[name].level in ("chunk", "metadata"):
            return units > 0
        return any(band(SEVERITY_BANDS, count / units) == where for count in range(1, min(units, 40) + 1))

    def _balanced(self, states: Counter[tuple[Pattern, Pattern]]) -> dict[tuple[Pattern, Pattern], np.ndarray]:
        """Find, for each state of a chunk, the chances of each pattern it can be brought to."""
        if not states or not self._patterns:
            return {}
        kinds = list(states)
        have = np.array([states[kind] for kind in kinds], dtype=float)
        have /= have.sum()
        plan = np.array([self._reachable(kind) for kind in kinds]) * self._wanted
        for _ in range(200):
            plan *= (have / np.maximum(plan.sum(axis=1), 1e-12))[:, None]
            plan *= self._wanted / np.maximum(plan.sum(axis=0), 1e-12)
        return dict(zip(kinds, plan, strict=True))

    def _reachable(self, state: tuple[Pattern, Pattern]) -> list[float]:
        shown, possible = state
        return [float(shown <= pattern and pattern - shown <= possible) for pattern in self._patterns]

    def passage(self, rng: random.Random, passage: Passage) -> list[tuple[str, float]]:
        """Draw what the passage should show, and give the operators that are missing for it."""
        state = self._state(passage.title, passage.text)
        chances = self._drawing.get(state)
        if chances is None:
            chances = np.array(self._reachable(state)) * self._wanted
        total = float(chances.sum()) if len(self._patterns) else 0.0
        if total <= 0:
            return []
        at = int(np.searchsorted(np.cumsum(chances), rng.random() * total))
        missing = self._patterns[min(at, len(self._patterns) - 1)] - state[0]
        pairs = [(name, where) for name, _, where in (trace.partition(":") for trace in missing)]
        pairs.sort(key=lambda pair: application_order(pair[0]))
        return [(name, self._severity(name, where, passage)) for name, where in pairs]

    def _severity(self, name: str, where: str, passage: Passage) -> float:
        """Give the mean severity of a band, raised where needed so that at least one unit is changed."""
        severity = self._profile.severities[name][where]
        return min(1.0, max(severity, 1 / max(1, self._units(name, passage.title, passage.text))))

    def context(self, rng: random.Random, golds: int) -> ContextPlan:
        """Draw the number of results, the gold's rank and the relevance of each other slot."""
        results = self._profile.shares("results")
        size = int(rng.choices(list(results), list(results.values()))[0])
        if size == 0:
            return ContextPlan("empty", golds)
        rank = self._gold_rank(rng, size)
        slots = [slot for slot in range(size) if slot != rank]
        relevance = tuple(self._relevance(rng, slot) for slot in slots)
        if rank is None:
            return ContextPlan("no_gold", size, relevance=relevance)
        return ContextPlan("noisy", max(size, golds), gold_rank=rank, relevance=relevance)

    def _gold_rank(self, rng: random.Random, size: int) -> int | None:
        ranks = self._profile.shares("gold_rank")
        if not ranks:
            # The traces do not say which passages were right: keep the default share without gold.
            mix = self._default.mix
            return None if rng.random() < mix["no_gold"] / (1 - mix["empty"]) else rng.randrange(size)
        where = rng.choices(list(ranks), list(ranks.values()))[0]
        inside = [rank for rank in range(size) if band(RANK_BANDS, rank + 1) == where]
        return rng.choice(inside) if inside else None

    def _relevance(self, rng: random.Random, slot: int) -> str:
        shares = self._profile.shares(f"relevance@{band(RANK_BANDS, slot + 1)}")
        near, far = shares.get("near", 0.0), shares.get("far", 0.0)
        return "near" if near + far == 0 or rng.random() < near / (near + far) else "far"


def _count_units(name: str, title: str | None, text: str) -> int:
    """Count what an operator could change in a passage."""
    operator = OPERATORS[name]
    if operator.kind == "metadata":
        return len(operator.run(Passage(text, title), 1.0, random.Random(0), ()))
    return len(operator.run(text, 1.0, random.Random(0))) if operator.kind == "text" else 0
