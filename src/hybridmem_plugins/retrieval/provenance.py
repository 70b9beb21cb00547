"""Why a passage was found, and what its sentences state, as plain JSON and in its own words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hybridmem_plugins.extraction.sentences import each_sentence, sentence_spans
from hybridmem_plugins.extraction.tokens import name_key, words
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.engine import Found, Result
from hybridmem_plugins.retrieval.model import Fact

_EDGES = " .,;:!?()[]\"“”'’"


def path_rows(result: Result, row: int) -> list[int]:
    """Return the rows that the walk came through to a passage, the seed first and the passage last."""
    rows = [row]
    while (arrival := result.arrivals.get(rows[0])) is not None and arrival.source not in rows:
        rows.insert(0, arrival.source)
        if arrival.hops == 1:
            break
    return rows


def provenance(result: Result, found: Found, graph_rank: int | None, passages: Mapping[int, Passage]) -> dict[str, Any]:
    """Return why a passage is among the hits.

    Args:
        result: The search.
        found: The hit.
        graph_rank: Its rank, from 1, among what the graph reached.
        passages: Passages by row, those of the hit's path among them.
    """
    routes: dict[str, dict[str, float | int]] = {}
    for name, ranking in (("semantic", result.semantic), ("lexical", result.lexical)):
        if found.row in ranking:
            rank, score = ranking[found.row]
            routes[name] = {"rank": rank + 1, "score": score}
    if found.graph_score is not None and graph_rank is not None:
        routes["graph"] = {"rank": graph_rank, "score": found.graph_score}
    linked = [link.name for link in result.question.titles if found.row in link.info.definers]
    rows = path_rows(result, found.row) if "graph" in routes else [found.row]
    return {
        "routes": routes,
        "route": {"chosen": result.choice.route, "reason": result.choice.reason},
        "entities": linked,
        "seed": passages[rows[0]].id,
        "hops": len(rows) - 1,
        "path": [_move(result, target, passages) for target in rows[1:]],
    }


def _move(result: Result, target: int, passages: Mapping[int, Passage]) -> dict[str, Any]:
    arrival = result.arrivals[target]
    source, reached = passages[arrival.source], passages[target]
    saying = reached if arrival.link.kind == "backward" else source
    return {
        "from": source.id,
        "from_title": source.title,
        "to": reached.id,
        "to_title": reached.title,
        "name": arrival.link.name,
        "kind": arrival.link.kind,
        "sentence": sentence_with(saying.text, arrival.link.name),
    }


def sentence_with(text: str, name: str) -> str:
    """Return the first sentence of a text that says a name; an empty string where none does.

    >>> sentence_with("She was a queen. She married Lothair II.", "lothair ii")
    'She married Lothair II.'
    >>> sentence_with("It began early. J. R. O'Brien had led a group.", "j r obrien")
    "J. R. O'Brien had led a group."
    """
    wanted, hint = f" {name} ", name.split(" ", 1)[0][:2]
    # Folding a sentence is slow; one without the name's first letters need not be.
    plain = hint.isascii() and text.isascii()
    if plain and hint not in _letters(text):
        return ""
    for start, end in each_sentence(text):
        sentence = text[start:end]
        if (not plain or hint in _letters(sentence)) and wanted in f" {name_key(sentence)} ":
            return sentence
    return ""


def _letters(text: str) -> str:
    return text.lower().replace("'", "")  # "O'Brien" is the name "obrien"


class Said(NamedTuple):
    """A name in the first sentence of a passage that says it."""

    passage: Passage
    spelling: str
    sentence: str
    score: float

    def fact(self) -> Fact:
        """Return what the sentence states about the name.

        The subject is what the passage is about; the relation is what stands between the subject's sentence start and
        the name, or the whole sentence where the name opens it.
        """
        passage, spelling, sentence, score = self
        subject = passage.title or _opening(passage.text)
        relation = sentence.split(spelling, 1)[0] if spelling in sentence else sentence
        relation = relation.removeprefix(f"The {subject}").removeprefix(subject).strip(" ,;:(–-") or sentence
        return Fact(subject, relation, spelling, str(passage.id), sentence, score)


def said_in(passage: Passage, names: Sequence[tuple[str, float]]) -> list[Said]:
    """Return those of the names that a passage says, each with the score it is to get; the text is read once."""
    text, left = passage.text, {name for name, _ in names}
    found: dict[str, tuple[str, str]] = {}
    lengths = _lengths(left)
    for start, end in each_sentence(text):
        if not left:
            break
        sentence = text[start:end]
        here = {name for _, name in _runs(words(sentence), lengths) if name in left}
        found.update((name, (spelling, sentence)) for name, spelling in _spellings(sentence, here).items())
        left -= here
    return [Said(passage, *found[name], score) for name, score in names if name in found]


def stated_fact(passage: Passage, subject: str, relation: str, object_: str, score: float) -> Fact:
    """Return a typed fact in the words of the passage that states it: the sentence that says most of its names."""
    text, sentence, most = passage.text, "", 0
    for start, end in sentence_spans(text):
        said = f" {name_key(text[start:end])} "
        count = (f" {subject} " in said) + (f" {object_} " in said)
        if count > most:
            sentence, most = text[start:end], count
    sentence = sentence or text[slice(*next(iter(sentence_spans(text)), (0, 0)))]
    named = _spellings(f"{sentence} {passage.title or ''}", {subject, object_})
    return Fact(named[subject], relation, named[object_], str(passage.id), sentence, score)


def _opening(text: str) -> str:
    return " ".join(text.split(maxsplit=6)[:6])


def _spellings(sentence: str, names: Collection[str]) -> dict[str, str]:
    """Return names as a sentence writes them; a name that it writes only within a longer word stays as it is."""
    if not names:
        return {}
    surfaces = sentence.split()
    tokens: list[str] = []
    owners: list[int] = []  # the word of each token: "Jean-Luc" has two
    for number, surface in enumerate(surfaces):
        said = words(surface)
        tokens += said
        owners += [number] * len(said)
    best: dict[str, tuple[bool, int, int]] = {}
    for start, name in _runs(tokens, _lengths(names)):
        end = start + name.count(" ") + 1
        first, last = owners[start], owners[end - 1]
        whole = owners[start - 1 : start] != [first] and owners[end : end + 1] != [last]
        if name in names and whole:
            # Written with as many words as it has is likeliest; then the fewest, then the first.
            size = last - first + 1
            rank = (size < end - start, size, first)
            best[name] = min(rank, best.get(name, rank))
    written = {name: " ".join(surfaces[first : first + size]) for name, (_, size, first) in best.items()}
    return {name: written[name].strip(_EDGES) if name in written else name for name in names}


def _lengths(names: Iterable[str]) -> dict[str, set[int]]:
    """Return how many tokens the names have that begin with each token."""
    lengths: dict[str, set[int]] = {}
    for name in names:
        lengths.setdefault(name.split(" ", 1)[0], set()).add(name.count(" ") + 1)
    return lengths


def _runs(tokens: Sequence[str], lengths: Mapping[str, Collection[int]]) -> Iterator[tuple[int, str]]:
    """Yield the runs of tokens that may be names, with where they start."""
    for start, token in enumerate(tokens):
        for length in lengths.get(token, ()):
            yield start, " ".join(tokens[start : start + length])
