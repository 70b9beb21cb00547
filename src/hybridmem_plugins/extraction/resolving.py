"""One name for each thing: aliases and resolvers, applied to what an extractor finds and to questions alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from hybridmem_plugins.extraction.model import Extraction, Extractor, Mention, TypedFact
from hybridmem_plugins.extraction.tokens import name_key, words
from hybridmem_plugins.passage import Passage

T = TypeVar("T")
Resolver = Callable[[str], str]

# Names whose resolution is remembered; a resolver may be slow (a lookup in a database, for example).
_REMEMBERED = 100_000


class NameResolver:
    """Turns a normalised name into the normalised name that stands for it.

    Args:
        aliases: Other spellings and the names they stand for, for example `{"NVM": "non-volatile memory"}`.
        resolver: Called with each normalised name, after the aliases; returns the name to use. It must always give
            the same answer to the same name. An answer without any letter or digit leaves the name as it is.

    Raises:
        ValueError: An alias or the name it stands for has no letter or digit.

    >>> NameResolver({"NVM": "Non-Volatile Memory"})("nvm")
    'non volatile memory'
    """

    def __init__(self, aliases: Mapping[str, str] | None = None, resolver: Resolver | None = None) -> None:
        self._aliases: dict[str, str] = {}
        for alias, name in (aliases or {}).items():
            if not name_key(alias) or not name_key(name):
                msg = f"the alias {alias!r} for {name!r} has no letter or digit"
                raise ValueError(msg)
            self._aliases[name_key(alias)] = name_key(name)
        self._resolver = resolver
        self._known: dict[str, str] = {}
        self._lengths: dict[str, set[int]] = {}
        for alias in self._aliases:
            first, *rest = alias.split(" ")
            self._lengths.setdefault(first, set()).add(len(rest) + 1)

    def __bool__(self) -> bool:
        """Say whether there is anything to resolve."""
        return bool(self._aliases) or self._resolver is not None

    def __call__(self, name: str) -> str:
        """Return the name that stands for a normalised name; itself where none does."""
        name = self._aliases.get(name, name)
        if self._resolver is None:
            return name
        known = self._known.get(name)
        if known is None:
            answer = self._resolver(name)
            if not isinstance(answer, str):
                msg = f"the resolver gave {answer!r} for {name!r}; it must return a string"
                raise TypeError(msg)
            known = name_key(answer) or name
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[name] = known
        return known

    def aliases_in(self, text: str) -> Iterator[str]:
        """Yield the aliases that a text says, in capitals or not."""
        if not self._lengths:
            return
        tokens = words(text)
        for start, token in enumerate(tokens):
            for length in sorted(self._lengths.get(token, ())):
                name = " ".join(tokens[start : start + length])
                if name in self._aliases:
                    yield name


class ResolvingExtractor:
    """Applies a resolver to everything that another extractor finds.

    Mentions and facts carry the name that stands for them. A title is kept as it is written as well, so that its
    passage is found by both names.

    Args:
        extractor: Finds names.
        resolve: Says which name stands for each.

    >>> from hybridmem_plugins.extraction.builtin import BuiltinExtractor
    >>> resolve = NameResolver({"NVM": "non-volatile memory"})
    >>> extractor = ResolvingExtractor(BuiltinExtractor(), resolve)
    >>> extractor.extract([Passage(title="NVM", text="It keeps data.")])[0].defines
    ('nvm', 'non volatile memory')
    """

    def __init__(self, extractor: Extractor, resolve: NameResolver) -> None:
        self._extractor = extractor
        self._resolve = resolve

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        found = self._extractor.extract(passages)
        return [self._resolved(passage, extraction) for passage, extraction in zip(passages, found, strict=True)]

    def _resolved(self, passage: Passage, extraction: Extraction) -> Extraction:
        resolve = self._resolve
        defines = _distinct([*extraction.defines, *map(resolve, extraction.defines)])
        mentions: dict[str, Mention] = {}
        for mention in [*extraction.mentions, *self._alias_mentions(passage, extraction)]:
            name = resolve(mention.name)
            if name not in defines:
                mentions.setdefault(name, mention._replace(name=name))
        facts = [
            TypedFact(resolve(fact.subject), fact.relation, resolve(fact.object), fact.sentence)
            for fact in extraction.facts
        ]
        return Extraction(extraction.sentences, defines, tuple(mentions.values()), _distinct(facts))

    def _alias_mentions(self, passage: Passage, extraction: Extraction) -> Iterator[Mention]:
        """Yield aliases that stand in the text without looking like a name."""
        for number, (start, end) in enumerate(extraction.sentences):
            for name in self._resolve.aliases_in(passage.text[start:end]):
                yield Mention(name, "entity", number)


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
