"""What an extractor says about a passage, and the protocol it fulfils."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from hybridmem_plugins.passage import Passage

MentionKind = Literal["link", "quote", "name", "year", "entity"]


class Mention(NamedTuple):
    """An entity named in a passage.

    Attributes:
        name: Normalised name (see `hybridmem_plugins.extraction.tokens.name_key`).
        kind: What made it stand out: a link's target or text, a quotation, capital letters, a year, or an
            optional extractor (`entity`).
        sentence: Index into `Extraction.sentences` of the first sentence that names it.
    """

    name: str
    kind: MentionKind
    sentence: int


@dataclass(frozen=True, slots=True)
class TypedFact:
    """A relation that an optional extractor read in a sentence; the names are normalised."""

    subject: str
    relation: str
    object: str
    sentence: int


@dataclass(frozen=True, slots=True)
class Extraction:
    """Everything the graph needs to know about one passage.

    Attributes:
        sentences: `(start, end)` character offsets into the passage's text, in order, not overlapping.
        defines: Normalised names that the passage is about: its title, with and without a bracketed qualifier.
        mentions: Other entities named in it, each once.
        facts: Typed relations; the built-in extractor finds none.
    """

    sentences: tuple[tuple[int, int], ...] = ()
    defines: tuple[str, ...] = ()
    mentions: tuple[Mention, ...] = ()
    facts: tuple[TypedFact, ...] = ()

    def to_json(self) -> str:
        """Return a compact JSON text that `from_json` reads back."""
        return json.dumps(
            [
                [offset for span in self.sentences for offset in span],
                self.defines,
                self.mentions,
                [(f.subject, f.relation, f.object, f.sentence) for f in self.facts],
            ],
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Extraction:
        """Rebuild an extraction from `to_json`."""
        offsets, defines, mentions, facts = json.loads(text)
        return cls(
            sentences=tuple(zip(offsets[::2], offsets[1::2], strict=True)),
            defines=tuple(defines),
            mentions=tuple(Mention(*m) for m in mentions),
            facts=tuple(TypedFact(*f) for f in facts),
        )


@runtime_checkable
class Extractor(Protocol):
    """Anything that reads entities out of passages.

    Implementations are deterministic and look at one passage at a time, so that adding passages in any order gives
    the same graph.
    """

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        ...
