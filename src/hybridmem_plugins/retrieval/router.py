"""Which tiers a question needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hybridmem_plugins.retrieval.model import ROUTES, Route


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of a question before the graph is walked.

    Attributes:
        question: As asked.
        names: Names in it that some passage is about.
        confidence: How likely the best passage answers, in (0, 1).
        margin: By how much it is likelier than the next one.
        coverage: Share of the question's telling words that the best passage has, in [0, 1].
    """

    question: str
    names: tuple[str, ...]
    confidence: float
    margin: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A route and why it was taken."""

    route: Route
    reason: str


class Router(Protocol):
    """Chooses a route; anything callable will do, an LLM too."""

    def __call__(self, situation: Situation) -> Choice | Route:
        """Return `semantic`, `relational` or `both`, with or without a reason."""
        ...


def default_router(situation: Situation) -> Choice:
    """Walk the graph unless one passage plainly says it all.

    >>> default_router(Situation("When did Ada marry?", ("ada",), 0.4, 0.1, 0.5)).route
    'both'
    """
    if situation.names:
        return Choice("both", f"the question names {', '.join(map(repr, situation.names))}")
    if situation.coverage >= 0.999 and situation.confidence >= 0.5 and situation.margin >= 0.3:
        return Choice("semantic", "one passage has every telling word of the question and stands out")
    return Choice("both", "no single passage plainly answers")


def route_of(situation: Situation, router: Router) -> Choice:
    """Ask a router, and refuse what is no route."""
    answer = router(situation)
    choice = answer if isinstance(answer, Choice) else Choice(answer, f"chosen by {type(router).__name__}")
    if choice.route not in ROUTES or choice.route == "auto":
        msg = f"the router chose {choice.route!r}; it must choose 'semantic', 'relational', 'both' or 'vector'"
        raise ValueError(msg)
    return choice
