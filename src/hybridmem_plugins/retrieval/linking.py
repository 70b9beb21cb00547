"""From the words of a question to the names of the graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hybridmem_plugins.extraction.builtin import capitalised_names
from hybridmem_plugins.extraction.tokens import STOPWORDS, words
from hybridmem_plugins.memory.steps import NameInfo

_MAX_WORDS = 12
_SURFACE = re.compile(r"\w[\w'’\-]*")


class NameSource(Protocol):
    """The part of the relational tier that linking reads: one batch a question."""

    def names(self, names: Collection[str], allowed: Any = None) -> Mapping[str, NameInfo]:
        """Return what is known of each of these names."""
        ...

    def similar_names(self, names: Sequence[str], allowed: Any = None) -> Mapping[str, str]:
        """Return, for misspelt names, the defined ones that are closest; names that are close to none are left out."""
        ...


@dataclass(frozen=True, slots=True)
class LinkedName:
    """A name of the graph that a question says.

    Attributes:
        name: Normalised name.
        start: First token of it in the question.
        end: One past the last.
        info: What the graph knows of it.
        cased: Share of its words that the question writes with a capital or a digit; 0.5 where the question has no
            capitals to go by.
    """

    name: str
    start: int
    end: int
    info: NameInfo
    cased: float


@dataclass(frozen=True, slots=True)
class Question:
    """A question, read.

    Attributes:
        text: As asked.
        tokens: Normalised tokens.
        terms: Distinct content words, in order; all words when there are no others.
        titles: Names in it that some passage defines, longest first where they overlap.
        rest: The question without its titles: what is asked about them.
    """

    text: str
    tokens: tuple[str, ...]
    terms: tuple[str, ...]
    titles: tuple[LinkedName, ...]
    rest: str


def read_question(
    text: str,
    graph: NameSource,
    allowed: Any = None,
    resolve: Callable[[str], str] | None = None,
) -> Question:
    """Find the names of a question: exact ones by longest match, then misspelt ones.

    Args:
        text: The question.
        graph: Knows the names.
        allowed: The filter as the store's `allowed` gave it; names of other passages are not seen.
        resolve: Turns a normalised name into the one that stands for it; the name itself counts where no passage
            defines that.
    """
    tokens = words(text)
    terms = tuple(dict.fromkeys(token for token in tokens if token not in STOPWORDS)) or tuple(dict.fromkeys(tokens))
    spans = _spans(tokens)
    named = {span: (resolve(span) if resolve else span) for span in spans}
    infos = graph.names({*spans, *named.values()}, allowed)
    defined = {name for name, info in infos.items() if info.definers}
    capitals = _capitals(text)
    found = [
        LinkedName(name, start, end, infos[name], _cased(tokens[start:end], capitals))
        for span, places in spans.items()
        if (name := named[span] if named[span] in defined else span) in defined
        for start, end in places
    ]
    titles = _longest(found)
    titles += _misspelt(text, tokens, titles, graph, allowed, capitals)
    covered = {index for link in titles for index in range(link.start, link.end)}
    rest = " ".join(token for index, token in enumerate(tokens) if index not in covered)
    return Question(text, tuple(tokens), terms, tuple(titles), rest)


def names_said(
    question: Question,
    graph: NameSource,
    allowed: Any = None,
    resolve: Callable[[str], str] | None = None,
) -> list[str]:
    """Return all names of the graph in a question, also those that no passage defines; titles first, then the longest.

    Args:
        question: The question, read.
        graph: Knows the names.
        allowed: The filter as the store's `allowed` gave it; names of other passages are not seen.
        resolve: As in `read_question`.
    """
    spans = _spans(question.tokens)
    said = dict.fromkeys([name for span in spans for name in ((resolve(span) if resolve else span), span)])
    known = graph.names(list(said), allowed)
    titles = [link.name for link in question.titles]
    others = sorted((name for name in said if name in known), key=lambda name: -name.count(" "))
    return list(dict.fromkeys([*titles, *others]))


def _spans(tokens: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    spans: dict[str, list[tuple[int, int]]] = {}
    for start in range(len(tokens)):
        for end in range(start + 1, min(len(tokens), start + _MAX_WORDS) + 1):
            if end - start == 1 and (tokens[start] in STOPWORDS or len(tokens[start]) < 2):
                continue
            spans.setdefault(" ".join(tokens[start:end]), []).append((start, end))
    return spans


def _longest(links: list[LinkedName]) -> list[LinkedName]:
    """Keep, from left to right, the longest name that starts at each free token."""
    kept: list[LinkedName] = []
    for link in sorted(links, key=lambda link: (link.start, link.start - link.end)):
        if not kept or link.start >= kept[-1].end:
            kept.append(link)
    return kept


def _misspelt(
    text: str,
    tokens: list[str],
    titles: list[LinkedName],
    graph: NameSource,
    allowed: Any,
    capitals: frozenset[str] | None,
) -> list[LinkedName]:
    """Link the capitalised runs that no exact name covers to the closest spelling."""
    places: dict[str, tuple[int, list[str]]] = {}
    covered = {index for link in titles for index in range(link.start, link.end)}
    indices: dict[str, list[int]] = {}
    for index, token in enumerate(tokens):
        indices.setdefault(token, []).append(index)
    for surface in dict.fromkeys(capitalised_names(text)):
        run = words(surface)
        said = " ".join(run)
        if len(said) < 5 or said in places:
            continue
        start = _position(tokens, run, indices)
        if start >= 0 and covered.isdisjoint(range(start, start + len(run))):
            places[said] = (start, run)
    if not places:
        return []
    names = graph.similar_names(list(places), allowed)
    infos = graph.names(list(names.values()), allowed)
    return [
        LinkedName(name, start, start + len(run), infos[name], _cased(run, capitals))
        for said, (start, run) in places.items()
        if (name := names.get(said)) is not None
    ]


def _position(tokens: list[str], run: list[str], indices: Mapping[str, Sequence[int]]) -> int:
    """Return where a run of words stands first, or -1; tried only where its rarest word stands."""
    offset = min(range(len(run)), key=lambda offset: len(indices.get(run[offset], ())))
    starts = (index - offset for index in indices.get(run[offset], ()) if index >= offset)
    return next((start for start in starts if tokens[start : start + len(run)] == run), -1)


def _capitals(text: str) -> frozenset[str] | None:
    """Return the words that a question capitalises; None where only its first word is, or none."""
    surfaces = _SURFACE.findall(text)
    found = [word for surface in surfaces if surface[0].isupper() or surface[0].isdigit() for word in words(surface)]
    first = words(surfaces[0])[:1] if surfaces else []
    return frozenset(found) if set(found) - set(first) else None


def _cased(tokens: Sequence[str], capitals: frozenset[str] | None) -> float:
    if capitals is None:
        return 0.5
    content = [token for token in tokens if token not in STOPWORDS] or list(tokens)
    return sum(token in capitals for token in content) / len(content)
