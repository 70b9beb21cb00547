"""Which noise a row gets: kinds of rows, rates and severities. A learnt profile is another recipe (`profile`)."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from hybridmem_plugins.augmentation.operators import OPERATORS, get_operator
from hybridmem_plugins.passage import Passage

KINDS = ("noisy", "clean", "no_gold", "empty")
"""Gold among noise; gold alone and untouched; noise without the gold; nothing retrieved."""

DEFAULT_MIX: Mapping[str, float] = {"noisy": 0.6, "clean": 0.15, "no_gold": 0.15, "empty": 0.1}

FILLS = ("hard_negatives", "same_topic", "random_irrelevant", "low_ranked")
"""Operators that fill free slots; their rates are shares of the slots."""

DEFAULT_RATES: Mapping[str, float] = {
    "hard_negatives": 0.35, "same_topic": 0.25, "random_irrelevant": 0.25, "low_ranked": 0.15,
    "near_duplicate": 0.08, "contradiction": 0.06, "outdated_version": 0.04, "off_entity": 0.1, "order": 1.0,
    "split_chunk": 0.05, "swapped_ids": 0.05,
    "truncate_head": 0.02, "truncate_tail": 0.02, "cut_mid_word": 0.03, "token_limit": 0.02, "overlap_repeat": 0.02,
    "merged_chunks": 0.02, "lost_table_header": 0.1,
    "typos": 0.02, "ocr_confusions": 0.02, "line_break_hyphens": 0.02, "nbsp": 0.05, "zero_width": 0.02,
    "mojibake": 0.03, "html_entities": 0.03, "ligatures": 0.02, "lost_case": 0.01, "replacement_characters": 0.01,
    "broken_tables": 0.2, "flattened_tables": 0.3, "unclosed_fences": 0.3, "broken_headings": 0.2, "broken_lists": 0.2,
    "broken_links": 0.2, "broken_emphasis": 0.2, "heading_spam": 0.03, "html_boilerplate": 0.02,
    "page_furniture": 0.02, "latex_loss": 0.2, "damaged_json": 0.3,
    "wrong_title": 0.03, "wrong_metadata": 0.05, "missing_metadata": 0.05, "null_metadata": 0.03,
    "planted_instruction": 0.02, "fake_citations": 0.02,
}  # fmt: skip
"""Chance of each operator: for one context (operators on the list) or one passage (all others)."""


@dataclass(frozen=True, slots=True)
class ContextPlan:
    """What is to become of one context.

    Attributes:
        kind: One of `KINDS`.
        size: How many passages it should hold.
        fills: For each free slot, the pool it is filled from.
        operators: Operators on the list and their severities, in order.
        gold_slots: Where gold passages are to stand, counted from 0, in rising order; golds without a slot are missing.
            None keeps them all and leaves their places to `order`.
        relevance: Instead of `fills`, for each slot without gold whether its passage is to be `near` or `far`.
    """

    kind: str
    size: int
    fills: tuple[str, ...] = ()
    operators: tuple[tuple[str, float], ...] = ()
    gold_slots: tuple[int, ...] | None = None
    relevance: tuple[str, ...] | None = None


class Recipe(Protocol):
    """Decides on the noise of contexts and passages."""

    def context(self, rng: random.Random, golds: int) -> ContextPlan:
        """Plan one context for a question with so many gold passages."""
        ...

    def passage(self, rng: random.Random, passage: Passage) -> list[tuple[str, float]]:
        """Choose the operators on one passage with their severities, in the order to apply them."""
        ...


def check_shares(name: str, shares: Mapping[str, float]) -> None:
    """Check that each value is a number in [0, 1].

    Raises:
        ValueError: One is not; the message names it.
    """
    for key, value in shares.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            msg = f"{name}[{key!r}] is {value!r}: give a number from 0 to 1."
            raise ValueError(msg)


class FixedRecipe:
    """Fixed rates, the same for every row."""

    def __init__(
        self,
        rates: Mapping[str, float] | None = None,
        severity: float | Mapping[str, float] | None = None,
        mix: Mapping[str, float] | None = None,
        size: int = 5,
    ) -> None:
        """Check and hold the rates.

        Args:
            rates: Operator to chance; None takes `DEFAULT_RATES`. Operators that are not named are off, except that
                slots are filled in the default way where none of `FILLS` is named.
            severity: One value for all operators, or one each; None draws 0.5 to 1.5 times an operator's typical one.
            mix: Kind to share; the shares must sum to 1.
            size: Passages in a context.

        Raises:
            ValueError: An unknown operator or kind, a rate, share or severity outside [0, 1], or a size below 1.
        """
        self.rates = dict(DEFAULT_RATES if rates is None else rates)
        self.mix = dict(DEFAULT_MIX if mix is None else mix)
        self.severity = severity
        self.size = size
        self._check()
        given = severity if isinstance(severity, Mapping) else dict.fromkeys(OPERATORS, severity)
        self._fixed_severity = {name: float(value) for name, value in given.items() if value is not None}
        weights = {name: self.rates.get(name, 0.0) for name in FILLS}
        if not any(weights.values()):
            weights = {name: DEFAULT_RATES[name] for name in FILLS}
        self._fills = tuple(weights), tuple(weights.values())
        on = [(OPERATORS[name], rate) for name, rate in self.rates.items() if rate > 0 and name not in FILLS]
        on.sort(key=lambda pair: application_order(pair[0].name))
        self._on_context = [(operator.name, rate) for operator, rate in on if operator.kind == "context"]
        self._on_passage = [(operator.name, rate) for operator, rate in on if operator.kind != "context"]

    def _check(self) -> None:
        for name in self.rates:
            get_operator(name)
        check_shares("rates", self.rates)
        severities = self.severity if isinstance(self.severity, Mapping) else {"all": self.severity or 0.0}
        check_shares("severity", severities)
        for name in severities if isinstance(self.severity, Mapping) else ():
            get_operator(name)
        check_shares("mix", self.mix)
        unknown = self.mix.keys() - set(KINDS)
        if unknown or not math.isclose(sum(self.mix.values()), 1.0, abs_tol=1e-6):
            msg = f"mix {self.mix!r}: name only {', '.join(KINDS)}, with shares that sum to 1."
            raise ValueError(msg)
        if not isinstance(self.size, int) or self.size < 1:
            msg = f"size is {self.size!r}: give a whole number of passages, at least 1."
            raise ValueError(msg)

    def context(self, rng: random.Random, golds: int) -> ContextPlan:
        """Plan one context."""
        kind = rng.choices(tuple(self.mix), tuple(self.mix.values()))[0]
        if kind in ("clean", "empty"):
            return ContextPlan(kind, golds)
        fills = tuple(rng.choices(*self._fills, k=self.size))
        return ContextPlan(kind, max(self.size, golds), fills, tuple(self._drawn(self._on_context, rng)))

    def passage(self, rng: random.Random, passage: Passage) -> list[tuple[str, float]]:
        """Choose operators, each by its own chance."""
        return self._drawn(self._on_passage, rng)

    def _drawn(self, on: list[tuple[str, float]], rng: random.Random) -> list[tuple[str, float]]:
        draw, fixed = rng.random, self._fixed_severity
        return [
            (name, fixed[name] if name in fixed else min(1.0, OPERATORS[name].typical * (0.5 + draw())))
            for name, rate in on
            if draw() < rate
        ]


_STAGES = {level: stage for stage, level in enumerate(("format", "chunk", "characters", "adversarial", "metadata"))}
_NAMES = list(OPERATORS)


def application_order(name: str) -> tuple[int, int]:
    """Sort key of operators: parsers break text first, then splitters, then encodings; the list's order is last.

    >>> application_order("heading_spam") < application_order("truncate_head") < application_order("typos")
    True
    """
    operator = OPERATORS[name]
    if operator.kind == "context":
        return (8 if name == "order" else 9 if operator.level == "metadata" else 7, _NAMES.index(name))
    return (_STAGES[operator.level], _NAMES.index(name))
