"""A recipe that makes contexts like those a profile was learnt from, whatever noise the chunks already have."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from hybridmem_plugins.augmentation.detectors import DETECTED_TEXT, detect
from hybridmem_plugins.augmentation.edits import apply_changes
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.profile import RANK_BANDS, SEVERITY_BANDS, NoiseProfile, band, named
from hybridmem_plugins.augmentation.recipe import ContextPlan, FixedRecipe, application_order
from hybridmem_plugins.passage import Passage

Pattern = frozenset[str]
"""What a passage shows: operators with their band of severity, as in "nbsp:light"."""

Shape = tuple[int, tuple[int, ...]]
"""How many passages came back, and in which of their slots, counted from 0, the right ones stood."""


class ProfileRecipe:
    """Samples contexts from a profile.

    What a passage should show is drawn from the profile's patterns. Chunks already show some noise of their own, and
    some operators find nothing to do in them (a table cannot be lost where there is none). So the drawing is
    conditional on what a chunk shows and allows, balanced (iterative proportional fitting, Deming and Stephan 1940) so
    that all chunks together give the profile's pattern frequencies.
    """

    def __init__(self, profile: NoiseProfile, chunks: Sequence[Passage]) -> None:
        """Learn how noisy the chunks are and balance the drawing against the profile.

        Args:
            profile: What is to be met.
            chunks: Those that contexts will be made of, each as often as it will come up.
        """
        self._profile = profile
        self._patterns = [frozenset(filter(None, name.split("+"))) for name in profile.together]
        counts = np.array(list(profile.together.values()), dtype=float)
        self._wanted = counts / counts.sum() if len(counts) else counts
        self._traces = sorted(set().union(*self._patterns)) if self._patterns else []
        self._state = lru_cache(maxsize=50_000)(self._look)
        self._units = lru_cache(maxsize=50_000)(_count_units)
        states = Counter(self._state(chunk.title, chunk.text) for chunk in chunks)
        self._drawing = self._balanced(states)
        self._default = FixedRecipe()
        self._shapes = _by_golds(profile.shapes)

    def _look(self, title: str | None, text: str) -> tuple[Pattern, Pattern]:
        """Say what a chunk shows, and what the profile's operators could add to it."""
        found = detect(Passage(text, title))
        possible = frozenset(trace for trace in self._traces if self._can_show(trace, found, title, text))
        return frozenset(named(found)), possible

    def _can_show(self, trace: str, found: Mapping[str, float], title: str | None, text: str) -> bool:
        """Tell whether a chunk, treated as the profile says, is then seen to be treated so: a small table may not."""
        name, _, where = trace.partition(":")
        operator = OPERATORS[name]
        if name in found or not self._units(name, title, text):
            return False
        if operator.kind == "metadata":
            return True
        changes = operator.run(text, self._severity(name, where, title, text), random.Random(0))
        severity = DETECTED_TEXT[name](apply_changes(text, changes))
        return severity > 0 and band(SEVERITY_BANDS, min(1.0, severity)) == where

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
        return [(name, self._severity(name, where, passage.title, passage.text)) for name, where in pairs]

    def _severity(self, name: str, where: str, title: str | None, text: str) -> float:
        """Give the mean severity of a band, raised where needed so that at least one unit is changed."""
        severity = self._profile.severities[name][where]
        least = 0.0 if OPERATORS[name].of_length else 1 / max(1, self._units(name, title, text))
        return min(1.0, max(severity, least))

    def context(self, rng: random.Random, golds: int) -> ContextPlan:
        """Draw the number of results, the gold's ranks and the relevance of each other slot."""
        size, slots = self._shape(rng, golds)
        if size == 0:
            return ContextPlan("empty", golds)
        relevance = tuple(self._relevance(rng, slot) for slot in range(size) if slot not in slots)
        return ContextPlan("noisy" if slots else "no_gold", size, gold_slots=slots, relevance=relevance)

    def _shape(self, rng: random.Random, golds: int) -> Shape:
        """Draw one of the shapes seen for questions with so many golds, or else with the nearest number of them."""
        near = min(self._shapes, key=lambda known: (abs(known - golds), known))
        shapes = self._shapes[near]
        size, slots = rng.choices(list(shapes), list(shapes.values()))[0]
        if not near and size:
            # The traces do not say which passages were right: keep the default share without gold.
            mix = self._default.mix
            lost = rng.random() < mix["no_gold"] / (1 - mix["empty"])
            slots = () if lost else tuple(sorted(rng.sample(range(size), min(golds, size))))
        elif slots and near != golds:
            free = [slot for slot in range(size) if slot not in slots]
            more = rng.sample(free, min(len(free), max(0, golds - near)))
            slots = tuple(sorted([*rng.sample(slots, min(len(slots), golds)), *more]))
        return size, slots

    def _relevance(self, rng: random.Random, slot: int) -> str:
        shares = self._profile.shares(f"relevance@{band(RANK_BANDS, slot + 1)}")
        near, far = shares.get("near", 0.0), shares.get("far", 0.0)
        return "near" if near + far == 0 or rng.random() < near / (near + far) else "far"


def _by_golds(shapes: Mapping[str, int]) -> dict[int, dict[Shape, int]]:
    """Sort shapes by the number of right passages; those where it is unknown (0) count only where no other is there."""
    grouped: dict[int, dict[Shape, int]] = {}
    for name, count in shapes.items():
        size, golds, ranks = name.split(":")
        slots = tuple(int(rank) - 1 for rank in ranks.split(",") if rank)
        grouped.setdefault(int(golds or 0), {})[int(size), slots] = count
    return {golds: seen for golds, seen in grouped.items() if golds} or grouped


def _count_units(name: str, title: str | None, text: str) -> int:
    """Count what an operator could change in a passage."""
    operator = OPERATORS[name]
    if operator.kind == "metadata":
        return len(operator.run(Passage(text, title), 1.0, random.Random(0), ()))
    return len(operator.run(text, 1.0, random.Random(0))) if operator.kind == "text" else 0
