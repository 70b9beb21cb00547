"""Noise in what is said about a passage: its title, source, author, page, date, score and id."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from hybridmem_plugins.augmentation.edits import MISSING
from hybridmem_plugins.augmentation.operators.registry import operator, pick
from hybridmem_plugins.passage import Passage

DESCRIBING = ("source", "author", "page", "date", "score")
"""Metadata keys that these operators break, beside the title."""


class FieldChange(NamedTuple):
    """One field of a passage gets a value; `field` is "title", "id" or "metadata.<key>"."""

    field: str
    after: Any


def _present(passage: Passage) -> list[str]:
    keys = [f"metadata.{key}" for key in DESCRIBING if passage.metadata.get(key) is not None]
    return (["title"] if passage.title else []) + keys


@operator("metadata", unit="passages with a title", typical=1.0, kind="metadata")
def wrong_title(passage: Passage, severity: float, rng: random.Random, others: Sequence[Passage]) -> list[FieldChange]:
    """The passage carries another passage's title."""
    titles = [other.title for other in others if other.title and other.title != passage.title]
    chosen = pick(["title"] if passage.title and titles else [], severity, rng)
    return [FieldChange(field, rng.choice(titles)) for field in chosen]


@operator("metadata", unit="fields", typical=0.5, kind="metadata")
def wrong_metadata(
    passage: Passage, severity: float, rng: random.Random, others: Sequence[Passage]
) -> list[FieldChange]:
    """Source, author, page, date or score are another passage's, or moved."""
    fields = [field for field in _present(passage) if field != "title"]
    return [FieldChange(field, _wrong(passage, field, rng, others)) for field in pick(fields, severity, rng)]


def _wrong(passage: Passage, field: str, rng: random.Random, others: Sequence[Passage]) -> Any:
    key = field.removeprefix("metadata.")
    value = passage.metadata[key]
    borrowed = [other.metadata[key] for other in others if other.metadata.get(key) not in (None, value)]
    if borrowed:
        return rng.choice(borrowed)
    if isinstance(value, bool) or not isinstance(value, int | float):
        # Values that look like dates or numbers stay plausible; others are recognisably somebody else's.
        moved = "".join(str((int(c) + rng.randint(1, 8)) % 10) if c in "3456789" else c for c in str(value))
        return moved if moved != str(value) else f"unknown-{rng.randint(100, 999)}"
    return value + rng.randint(1, 40) if isinstance(value, int) else round(rng.random(), 4)


@operator("metadata", unit="fields", typical=0.5, kind="metadata")
def missing_metadata(
    passage: Passage, severity: float, rng: random.Random, others: Sequence[Passage]
) -> list[FieldChange]:
    """The title or other fields are not there at all."""
    chosen = pick(_present(passage), severity, rng)
    return [FieldChange(field, None if field == "title" else MISSING) for field in chosen]


@operator("metadata", unit="fields", typical=0.5, kind="metadata")
def null_metadata(
    passage: Passage, severity: float, rng: random.Random, others: Sequence[Passage]
) -> list[FieldChange]:
    """Fields are there but hold null."""
    fields = [field for field in _present(passage) if field != "title"]
    return [FieldChange(field, None) for field in pick(fields, severity, rng)]
