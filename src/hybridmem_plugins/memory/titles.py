"""The names that passages define, and how they are found: exactly, in a run of words, or misspelt."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping, Sequence

from hybridmem_plugins.memory.names import LONGEST_NAME, closest, drawer, names_in, trivial


class Titles:
    """Defined names with the rows of the passages that define them, ascending.

    Attributes:
        definers: These rows, by name; to be read only.

    >>> titles = Titles()
    >>> titles.add("lothair ii", 7)
    >>> titles.rows("lothair ii"), titles.similar("lothar ii"), titles.said_in("of lothair ii she".split())
    ([7], ['lothair ii'], ['lothair ii'])
    """

    def __init__(self) -> None:
        self.definers: dict[str, list[int]] = {}
        # For the first word of each name, how many words names have that start with it, and how many passages do so.
        self._lengths: dict[str, dict[int, int]] = {}
        self._spellings: dict[str, dict[str, None]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.definers

    def rows(self, name: str) -> Sequence[int]:
        """Return the rows of the passages that define a name, ascending."""
        return self.definers.get(name, ())

    def add(self, name: str, row: int) -> None:
        """Note that one more passage defines a name."""
        insort(self.definers.setdefault(name, []), row)
        self._list(name, 1)

    def remove(self, name: str, row: int) -> bool:
        """Note that a passage no longer defines a name; return whether none does."""
        rows = self.definers[name]
        rows.remove(row)
        first, length = _shape(name)
        if length <= LONGEST_NAME:
            lengths = self._lengths[first]
            lengths[length] -= 1
            if not lengths[length]:
                del lengths[length]
                if not lengths:
                    del self._lengths[first]
        if rows:
            return False
        del self.definers[name]
        del self._spellings[drawer(name)][name]
        return True

    def fill(self, rows: Mapping[str, list[int]]) -> None:
        """Take names with their rows, there being none so far."""
        self.definers.update(rows)
        for name, definers in rows.items():
            self._list(name, len(definers))

    def similar(self, name: str) -> list[str]:
        """Return the names that a misspelt one may stand for, the closest first."""
        return closest(name, self._spellings.get(drawer(name), ()))

    def said_in(self, words: Sequence[str]) -> list[str]:
        """Return the names that occur in a run of tokens, overlapping ones too, in order.

        Names of several words are also found with an English plural's `s`.
        """
        return [name for name in names_in(words, self._lengths) if name in self.definers]

    def _list(self, name: str, passages: int) -> None:
        self._spellings.setdefault(drawer(name), {})[name] = None
        first, length = _shape(name)
        if length <= LONGEST_NAME:
            lengths = self._lengths.setdefault(first, {})
            lengths[length] = lengths.get(length, 0) + passages


def forms(name: str) -> list[list[str]]:
    """Return the runs of tokens in which a name may be said; none for one that is not looked for in texts."""
    words = name.split(" ")
    if len(words) == 1:
        return [] if trivial(name) else [words]
    return [words, [*words[:-1], words[-1] + "s"]] if len(words) <= LONGEST_NAME else []


def _shape(name: str) -> tuple[str, int]:
    return name.partition(" ")[0], name.count(" ") + 1
