"""Typed facts read by any language model, whatever it answers."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.merging import entity_key, merged
from hybridmem_plugins.extraction.model import Extraction, Extractor, TypedFact
from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.passage import Passage

logger = logging.getLogger(__name__)

PROMPT = """\
Read the numbered passages and list the facts that they state about named people, places, organisations, works, \
products and terms. Use names as the text writes them, without pronouns; a relation is one to four words.
Answer with JSON only, one object a fact:
[{"passage": 1, "subject": "Marie Curie", "relation": "born in", "object": "Warsaw"}]
If there are no facts, answer [].

{passages}
"""
"""The default prompt; `{passages}` is where the passages go."""

LONGEST_ANSWER = 200_000
LONGEST_NAME = 200
SHOWN_SKIPS = 50

_UNUSABLE = "the answer holds no JSON"


@dataclass(slots=True)
class ExtractionReport:
    """What a model's answers came to.

    Attributes:
        passages: Passages read.
        calls: Calls of the model.
        facts: Facts kept.
        skipped: How often something was skipped, by reason.
        examples: `(passage id, reason)` of the first things skipped.
    """

    passages: int = 0
    calls: int = 0
    facts: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str | None, str]] = field(default_factory=list)

    def skip(self, passage: str | None, reason: str) -> None:
        """Count something that was skipped."""
        self.skipped[reason] += 1
        if len(self.examples) < SHOWN_SKIPS:
            self.examples.append((passage, reason))

    def __str__(self) -> str:
        """Return one line for people to read."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.skipped.most_common())
        return (
            f"{self.facts} facts from {self.passages} passages in {self.calls} calls; skipped: {reasons or 'nothing'}"
        )


class LLMExtractor:
    """Adds the facts that a language model reads in passages to what another extractor finds.

    Whatever the model answers or raises, the other passages are not harmed: what cannot be used is skipped, counted and
    told in `report`. Facts are stored with their passage, so reopening a memory does not ask the model again.

    Args:
        complete: Takes a prompt and returns the model's answer, for example `lambda p: model.invoke(p).content` for a
            LangChain model, or `lambda p: llm.complete(p).text` for one of LlamaIndex.
        prompt: Text with `{passages}` in it, to which the model shall answer with JSON objects that have `subject`,
            `relation`, `object` and, where more than one passage is asked about, its number as `passage`.
        batch_size: Passages in one prompt; when an answer to several cannot be used, each is asked about alone.
        on_error: `warn` logs what the model could not do and goes on; `raise` stops with the model's error, or with
            ValueError for an answer without JSON.
        grounded: Keep only facts whose two names stand in the passage or its title.
        base: The other extractor; None takes the built-in one.

    Raises:
        ValueError: The prompt has no `{passages}`, or batch_size < 1.
    """

    def __init__(
        self,
        complete: Callable[[str], str],
        *,
        prompt: str = PROMPT,
        batch_size: int = 1,
        on_error: Literal["raise", "warn"] = "warn",
        grounded: bool = True,
        base: Extractor | None = None,
    ) -> None:
        if "{passages}" not in prompt:
            msg = "the prompt has no {passages}, so the model would see none"
            raise ValueError(msg)
        if batch_size < 1:
            msg = f"batch_size must be at least 1, not {batch_size}"
            raise ValueError(msg)
        if on_error not in ("raise", "warn"):
            msg = f"on_error must be 'raise' or 'warn', not {on_error!r}"
            raise ValueError(msg)
        self.report = ExtractionReport()
        self._complete = complete
        self._prompt = prompt
        self._batch_size = batch_size
        self._on_error = on_error
        self._grounded = grounded
        self._base = BuiltinExtractor() if base is None else base
        self._lock = threading.Lock()

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        """Return one extraction for each passage, in order."""
        found = self._base.extract(passages)
        for start in range(0, len(passages), self._batch_size):
            batch = passages[start : start + self._batch_size]
            for offset, facts in enumerate(self._facts(batch, found[start : start + self._batch_size])):
                found[start + offset] = merged(found[start + offset], facts=facts)
        with self._lock:
            self.report.passages += len(passages)
        return found

    def _facts(self, batch: Sequence[Passage], found: Sequence[Extraction]) -> list[list[TypedFact]]:
        """Ask about a batch; about each passage alone where that cannot be used."""
        answer, error = self._ask(batch)
        if answer is None and len(batch) > 1:
            logger.info("asking about %d passages one by one: %s", len(batch), error)
            return [self._facts([p], [f])[0] for p, f in zip(batch, found, strict=True)]
        if answer is None:
            reason = _UNUSABLE if error is None else f"calls failed ({type(error).__name__})"
            if self._on_error == "raise":
                msg = f"passage {batch[0].id!r}: {_UNUSABLE}"
                raise error or ValueError(msg)
            self._skip(batch[0], reason)
            logger.warning("no facts for passage %r: %s", batch[0].id, reason)
            return [[]]
        facts: list[list[TypedFact]] = [[] for _ in batch]
        for item in answer:
            number = _passage_number(item, len(batch))
            if number is None:
                self._skip(batch[0] if len(batch) == 1 else None, "of no passage that was asked about")
                continue
            fact = _fact(item, batch[number], found[number], grounded=self._grounded)
            if isinstance(fact, str):
                self._skip(batch[number], fact)
            elif fact not in facts[number]:
                facts[number].append(fact)
        with self._lock:
            self.report.facts += sum(map(len, facts))
        return facts

    def _ask(self, batch: Sequence[Passage]) -> tuple[list[Any] | None, Exception | None]:
        """Return the objects of the model's answer, or None with the error where there are none."""
        texts = [f"{p.title}\n{p.text}" if p.title else p.text for p in batch]
        listed = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
        with self._lock:
            self.report.calls += 1
        try:
            answer = self._complete(self._prompt.replace("{passages}", listed))
        except Exception as error:
            return None, error
        if not isinstance(answer, str):
            return None, TypeError(f"the model answered with a {type(answer).__name__}, not a string")
        values = list(_json_values(answer[:LONGEST_ANSWER]))
        if not values:
            return None, None
        return [item for value in values for item in _items(value)], None

    def _skip(self, passage: Passage | None, reason: str) -> None:
        with self._lock:
            self.report.skip(None if passage is None else passage.id, reason)


def _json_values(text: str) -> Iterator[Any]:
    """Yield every JSON array or object in a text, also those of an array that was cut off or has prose around it.

    >>> list(_json_values('Sure! ```json [{"a": 1}, {"b": 2}, {"c": ```'))
    [{'a': 1}, {'b': 2}]
    """
    decoder = json.JSONDecoder()
    position = 0
    while (position := _next_bracket(text, position)) >= 0:
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            position += 1
        else:
            yield value


def _next_bracket(text: str, position: int) -> int:
    found = [at for at in (text.find("{", position), text.find("[", position)) if at >= 0]
    return min(found, default=-1)


def _items(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield what may be facts in a value, however it is wrapped: `{"facts": [...]}`, `[["Ada", "wrote", "it"]]`."""
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, str) for part in value):
        yield dict(zip(("subject", "relation", "object"), value, strict=True))
    elif isinstance(value, list):
        for part in value:
            yield from _items(part, depth + 1) if depth < 5 else ()
    elif isinstance(value, dict) and not {"subject", "relation", "object"} & value.keys():
        nested = [part for part in value.values() if isinstance(part, list | dict)]
        for part in nested:
            yield from _items(part, depth + 1) if depth < 5 else ()
        if not nested and value:
            yield value
    else:
        yield value


def _passage_number(item: Any, count: int) -> int | None:
    """Return the index of the passage that a fact says it is from; the only one where it says nothing."""
    number = item.get("passage", 1 if count == 1 else None) if isinstance(item, dict) else 1
    if isinstance(number, str) and number.strip("[] ").isdecimal():
        number = int(number.strip("[] "))
    if count == 1:
        return 0
    return number - 1 if isinstance(number, int) and 1 <= number <= count else None


def _fact(item: Any, passage: Passage, found: Extraction, *, grounded: bool) -> TypedFact | str:
    """Return a fact, or why there is none."""
    if not isinstance(item, dict):
        return "no object with subject, relation and object"
    parts = [item.get(name) for name in ("subject", "relation", "object")]
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        return "lacking a subject, relation or object"
    subject, relation, object_ = (str(part) for part in parts)
    names = entity_key(subject), entity_key(object_)
    relation = " ".join(relation.replace("_", " ").split()).lower()
    if not all(names) or not name_key(relation):
        return "with an empty name or relation"
    if max(len(subject), len(relation), len(object_)) > LONGEST_NAME:
        return "too long"
    sentences = [f" {name_key(passage.text[start:end])} " for start, end in found.sentences]
    said = f" {name_key(passage.title or '')} {''.join(sentences)}"
    if grounded and not all(f" {name} " in said for name in names):
        return "naming what the passage does not"
    best = max(range(len(sentences)), key=lambda i: (sum(f" {n} " in sentences[i] for n in names), -i), default=0)
    return TypedFact(names[0], relation.encode("utf-8", "replace").decode(), names[1], best)
