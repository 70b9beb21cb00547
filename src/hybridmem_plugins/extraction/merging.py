"""Putting what other extractors find together with what typography tells."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from hybridmem_plugins.extraction.model import Extraction, Mention, TypedFact
from hybridmem_plugins.extraction.tokens import name_key

_ARTICLES = ("the ", "a ", "an ")


def sentence_at(extraction: Extraction, offset: int) -> int:
    """Return the number of the sentence in which a character of the text stands, 0 where there is none."""
    return max(bisect_right([start for start, _ in extraction.sentences], offset) - 1, 0)


def entity_key(name: str) -> str:
    """Return the normalised name of an entity, without an article.

    >>> entity_key("The Analytical Engine")
    'analytical engine'
    """
    key = name_key(name)
    for article in _ARTICLES:
        if key.startswith(article):
            return key[len(article) :]
    return key


def merged(
    extraction: Extraction, entities: Iterable[tuple[str, int]] = (), facts: Iterable[TypedFact] = ()
) -> Extraction:
    """Add entities and facts to an extraction; what is in it already stays as it is.

    Args:
        extraction: What the built-in extractor found.
        entities: Names and the number of the sentence in which each stands.
        facts: Relations; their names are mentioned, too.
    """
    facts = tuple(dict.fromkeys(facts))
    known = {mention.name for mention in extraction.mentions}.union(extraction.defines)
    said = [(name_of, fact.sentence) for fact in facts for name_of in (fact.subject, fact.object)]
    added: dict[str, Mention] = {}
    for name, sentence in [*((entity_key(name), sentence) for name, sentence in entities), *said]:
        if name and name not in known:
            added.setdefault(name, Mention(name, "entity", sentence))
    return Extraction(
        extraction.sentences,
        extraction.defines,
        (*extraction.mentions, *added.values()),
        tuple(dict.fromkeys((*extraction.facts, *facts))),
    )
