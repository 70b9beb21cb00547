"""What the relational tier says: what a name joins, and which steps lead from passages to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Names said in more passages than this connect too much to say anything ("film", "1990").
MAX_MENTIONS_BACKWARD = 50
MAX_MENTIONS_SHARED = 20
MAX_DEFINERS = 25

StepKind = Literal["forward", "backward", "shared"]
ALL_KINDS: tuple[StepKind, ...] = ("forward", "backward", "shared")


class NameInfo(NamedTuple):
    """What the graph knows of a name.

    Attributes:
        definers: Rows of the passages whose title or heading the name is, ascending; at most `MAX_DEFINERS`.
        meanings: Number of different titles among them: 2 for the planet and the metal Mercury.
        mentions: Number of other passages that mention it, counted up to one more than `MAX_MENTIONS_BACKWARD`.
    """

    definers: tuple[int, ...]
    meanings: int
    mentions: int


class Link(NamedTuple):
    """A name by which one passage leads to others.

    Attributes:
        kind: `forward` from a mention to the passages that define the name, `backward` from a definition to the
            passages that mention it, `shared` between passages that mention the same rare name.
        name: The name.
        meanings: Number of different titles that define it.
        mentions: Number of passages that mention it, counted up to one more than `MAX_MENTIONS_BACKWARD`.
    """

    kind: StepKind
    name: str
    meanings: int
    mentions: int


@dataclass(frozen=True, slots=True)
class Steps:
    """Moves from passages to others, as columns.

    Attributes:
        source: Rows that the steps start from, shape `(n,)`.
        target: Rows that they lead to, shape `(n,)`.
        link: Index into `links` of what joins the two, shape `(n,)`; each source has links of its own.
        links: The links.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    link: NDArray[np.int64]
    links: list[Link]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.target)


class Columns:
    """Collects steps column by column."""

    def __init__(self) -> None:
        self._target: list[int] = []
        self._source: list[int] = []  # of each link
        self._count: list[int] = []
        self._links: list[Link] = []

    def add(self, row: int, targets: Sequence[int], link: Link) -> None:
        """Add the steps of one link, none that leads back to where it starts."""
        others = [target for target in targets if target != row]
        if others:
            self._target += others
            self._source.append(row)
            self._count.append(len(others))
            self._links.append(link)

    def steps(self) -> Steps:
        """Return what was collected."""
        source = np.repeat(np.array(self._source, dtype=np.int64), self._count)
        link = np.repeat(np.arange(len(self._links)), self._count)
        return Steps(source, np.array(self._target, dtype=np.int64), link, self._links)


def maximal(names: list[str]) -> list[str]:
    """Drop the names that are only part of a longer one, as `york` of `new york`."""
    if len(names) < 2:
        return names
    all_words = "\x00".join([f" {name} " for name in names])
    return [name for name in names if all_words.count(f" {name} ") == 1]
