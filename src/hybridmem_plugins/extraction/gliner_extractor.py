"""Entities of any kind that one can name, found by GLiNER or anything with its method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.merging import merged
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.passage import Passage

LABELS = ("person", "organization", "location", "product", "technology", "event", "work of art")


class EntityPredictor(Protocol):
    """What is asked of a model; `gliner.GLiNER` fulfils it."""

    def predict_entities(self, text: str, labels: list[str], /) -> Sequence[Any]:
        """Return dicts with at least `text` and `start`."""
        ...


class GLiNERExtractor:
    """Adds the entities that a GLiNER model predicts to those of another extractor.

    Args:
        model: Any object with `predict_entities(text, labels)`, such as `GLiNER.from_pretrained(...)`.
        labels: Kinds of entities to look for, in plain words.
        threshold: Lowest score of an entity that is kept, where the model tells one.
        base: The other extractor; None takes the built-in one.

    Raises:
        TypeError: The model has no such method.
    """

    def __init__(
        self,
        model: EntityPredictor,
        labels: Sequence[str] = LABELS,
        *,
        threshold: float = 0.5,
        base: Extractor | None = None,
    ) -> None:
        if not callable(getattr(model, "predict_entities", None)):
            msg = f"the model needs a method predict_entities(text, labels); {type(model).__name__} has none"
            raise TypeError(msg)
        self._model = model
        self._labels = list(labels)
        self._threshold = threshold
        self._base = BuiltinExtractor() if base is None else base

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        found = self._base.extract(passages)
        return [self._with_entities(passage, each) for passage, each in zip(passages, found, strict=True)]

    def _with_entities(self, passage: Passage, found: Extraction) -> Extraction:
        entities: list[tuple[str, int]] = []
        # Sentence by sentence: the model cuts off what is longer than its window.
        for number, (start, end) in enumerate(found.sentences):
            predicted = self._model.predict_entities(passage.text[start:end], self._labels)
            kept = [entity for entity in predicted if float(entity.get("score", 1.0)) >= self._threshold]
            entities += [(str(entity["text"]), number) for entity in kept]
        return merged(found, entities)
