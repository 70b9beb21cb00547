"""What an operator is, and where all of them are found by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from hybridmem_plugins.augmentation.edits import Change

Level = Literal["context", "chunk", "characters", "format", "metadata", "adversarial"]
Kind = Literal["text", "neighbour", "metadata", "context"]
Run = TypeVar("Run", bound=Callable[..., Any])
Site = TypeVar("Site")


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of noise.

    Attributes:
        name: Its name in rates, labels and logs.
        level: What it breaks: the list of passages (`context`), a `chunk`, `characters`, `format`, `metadata`, or the
            reader's trust (`adversarial`).
        kind: What `run` takes: `text` (text, severity, rng), `neighbour` (text, severity, rng, next chunk's text),
            `metadata` (passage, severity, rng, other passages) or `context` (draft, severity, rng, sources).
        unit: What severity is the share of, so that severity 0.1 changes one unit in ten.
        typical: Severity where the user sets none.
        run: Proposes the changes.
    """

    name: str
    level: Level
    kind: Kind
    unit: str
    typical: float
    run: Callable[..., Any]

    @property
    def about(self) -> str:
        """One sentence on what it does."""
        return (self.run.__doc__ or "").strip().split("\n")[0]

    @property
    def of_length(self) -> bool:
        """Severity is the share of the text's length that is lost, not of places in it."""
        return self.level == "chunk" and self.unit.startswith(("characters", "tokens"))


_REGISTRY: dict[str, Operator] = {}


def operator(level: Level, unit: str, typical: float, kind: Kind = "text") -> Callable[[Run], Run]:
    """Register a function under its own name as an operator."""

    def register(run: Run) -> Run:
        _REGISTRY[run.__name__] = Operator(run.__name__, level, kind, unit, typical, run)
        return run

    return register


def registered() -> Mapping[str, Operator]:
    """Give all operators by name (filled when `operators` is imported)."""
    return _REGISTRY


def pick(sites: Iterable[Site], severity: float, rng: random.Random) -> Sequence[Site]:
    """Choose a share of the sites, in their order: as many as severity says, the fraction left to chance.

    A fixed number and not a coin for each site, so that a profile's severity is met in every passage and not only on
    average.
    """
    sites = list(sites)
    expected = severity * len(sites)
    count = int(expected) + (rng.random() < expected % 1)
    if count >= len(sites):
        return sites
    return [sites[index] for index in sorted(rng.sample(range(len(sites)), count))] if count else []


def insertion(position: int, text: str) -> Change:
    """Insert without removing."""
    return Change(position, position, text)
