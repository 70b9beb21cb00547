"""Named entities of a spaCy pipeline, beside what typography tells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.merging import merged, sentence_at
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.passage import Passage

_NUMBERS = frozenset({"DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"})


class SpacyExtractor:
    """Adds the entities that a spaCy pipeline recognises to those of another extractor.

    Args:
        pipeline: A loaded pipeline (`spacy.load(...)`, `spacy.blank("en")` with an entity ruler), or the name of an
            installed model. One without an entity recogniser adds nothing.
        exclude: Labels of entities that are left out; by default numbers and dates, which join what does not belong
            together.
        base: The other extractor; None takes the built-in one.
        batch_size: Passages that spaCy gets at once.

    Raises:
        ImportError: A name is given and spaCy is not installed.
        OSError: The model of this name is not installed.
    """

    def __init__(
        self,
        pipeline: Any = "en_core_web_sm",
        *,
        exclude: Collection[str] = _NUMBERS,
        base: Extractor | None = None,
        batch_size: int = 64,
    ) -> None:
        self._pipeline = require("spacy", "spacy").load(pipeline) if isinstance(pipeline, str) else pipeline
        self._exclude = frozenset(exclude)
        self._base = BuiltinExtractor() if base is None else base
        self._batch_size = batch_size

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        # spaCy refuses texts beyond a limit of its own: those are left to the other extractor.
        longest = getattr(self._pipeline, "max_length", None) or float("inf")
        short = [i for i, passage in enumerate(passages) if len(passage.text) <= longest]
        documents = self._pipeline.pipe([passages[i].text for i in short], batch_size=self._batch_size)
        found = self._base.extract(passages)
        for i, document in zip(short, documents, strict=True):
            entities = [
                (entity.text, sentence_at(found[i], entity.start_char))
                for entity in document.ents
                if entity.label_ not in self._exclude
            ]
            found[i] = merged(found[i], entities)
        return found
