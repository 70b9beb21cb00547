"""Why a passage was found, and what its sentences state, as plain JSON and in its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridmem_plugins.extraction.sentences import each_sentence, sentence_spans
from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.engine import Found, Result
from hybridmem_plugins.retrieval.model import Fact


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
    """
    wanted, hint = f" {name} ", name[:2]
    # Folding a sentence is slow; one without the name's first letters need not be.
    plain = hint.isascii() and text.isascii()
    lowered = text.lower() if plain else text
    first = lowered.find(hint) if plain else 0
    if first < 0:
        return ""
    for start, end in each_sentence(text):
        if end > first and (not plain or hint in lowered[start:end]) and wanted in f" {name_key(text[start:end])} ":
            return text[start:end]
    return ""


def facts_of(passage: Passage, names: Sequence[tuple[str, float]]) -> list[Fact]:
    """Return what a passage states about others, each name with the score it is to get.

    The subject is what the passage is about; the relation is what stands between the subject's sentence start and the
    name, or the whole sentence where the name opens it.
    """
    facts = []
    for name, score in names:
        sentence = sentence_with(passage.text, name)
        if not sentence:
            continue
        spelling = _spelling(sentence, name)
        subject = passage.title or _opening(passage.text)
        relation = sentence.split(spelling, 1)[0] if spelling in sentence else sentence
        relation = relation.removeprefix(subject).strip(" ,;:(–-") or sentence
        facts.append(Fact(subject, relation, spelling, str(passage.id), sentence, score))
    return facts


def stated_fact(passage: Passage, subject: str, relation: str, object_: str, score: float) -> Fact:
    """Return a typed fact in the words of the passage that states it: the sentence that says most of its names."""
    text, sentence, most = passage.text, "", 0
    for start, end in sentence_spans(text):
        said = f" {name_key(text[start:end])} "
        count = (f" {subject} " in said) + (f" {object_} " in said)
        if count > most:
            sentence, most = text[start:end], count
    sentence = sentence or text[slice(*next(iter(sentence_spans(text)), (0, 0)))]
    named = {name: _spelling(f"{sentence} {passage.title or ''}", name) for name in (subject, object_)}
    return Fact(named[subject], relation, named[object_], str(passage.id), sentence, score)


def _opening(text: str) -> str:
    return " ".join(text.split()[:6])


def _spelling(sentence: str, name: str) -> str:
    """Return a name as a sentence writes it."""
    words = sentence.split()
    count = name.count(" ") + 1
    for size in (count, count + 1, count + 2):
        for start in range(len(words) - size + 1):
            surface = " ".join(words[start : start + size])
            if name_key(surface) == name:
                return surface.strip(" .,;:!?()[]\"“”'’")
    return name
