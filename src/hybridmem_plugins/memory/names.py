"""Which runs of tokens may be names: what every relational tier decides alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from rapidfuzz import fuzz, process

from hybridmem_plugins.extraction.tokens import STOPWORDS

# Words of the longest title that is looked for in the text of others.
LONGEST_NAME = 40
# Percent of equal characters (rapidfuzz's normalised indel similarity) that make two spellings one name.
SAME_SPELLING = 86.0


def names_in(tokens: Sequence[str], lengths: Mapping[str, Collection[int]]) -> list[str]:
    """Return the runs of tokens that may be titles, in order; of several words also without an English plural's `s`.

    Args:
        tokens: Normalised tokens.
        lengths: For the first word of every title, how many words such titles have.

    >>> names_in(["the", "analytical", "engines"], {"analytical": [2]})
    ['analytical engines', 'analytical engine']
    """
    found: dict[str, None] = {}
    known = lengths.get
    for start, sizes in [(start, sizes) for start, word in enumerate(tokens) if (sizes := known(word))]:
        for length in sizes:
            if start + length > len(tokens):
                continue
            name = tokens[start] if length == 1 else " ".join(tokens[start : start + length])
            for form in (name, name[:-1]) if length > 1 and name[-1] == "s" else (name,):
                if not (length == 1 and trivial(form)):
                    found[form] = None
    return list(found)


def closest(name: str, candidates: Iterable[str]) -> list[str]:
    """Return the candidates that may be meant by a misspelt name, the likeliest first, equals in alphabetical order.

    >>> closest("lothar ii", ["lothair i", "lothair ii", "louis ii"])
    ['lothair ii', 'lothair i']
    """
    matches = process.extract(name, list(candidates), scorer=fuzz.ratio, score_cutoff=SAME_SPELLING, limit=None)
    return [match for match, _, _ in sorted(matches, key=lambda found: (-found[1], found[0]))]


def trivial(word: str) -> bool:
    """Say whether a single word is no name by itself; one ideograph is not one either."""
    return word in STOPWORDS or len(word) < 2


def drawer(name: str) -> str:
    """Return the drawer in which likely misspellings of a name lie: few letters go wrong first."""
    return f"{name[:1]}{name.count(' ')}"
