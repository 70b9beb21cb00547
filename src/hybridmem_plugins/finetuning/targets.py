"""What a model is taught to say: the bare answer, the answer with its passage, or after the sentence that says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer, words_around
from hybridmem_plugins.augmentation.operators.context import GOLD_ROLES
from hybridmem_plugins.augmentation.templates import ANSWER_MARK

STYLES = ("span", "cited", "quoted")
"""`span`: "1843". `cited`: "[2] 1843". `quoted`: "[2] She wrote it in 1843." and, on the next line, "Answer: 1843"."""

MOST_WORDS = 40
_READABLE = 70.0
"""How much of a quoted sentence must still be found in the damaged passage, in percent of its characters."""

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[A-Z0-9“])|\n+")


def write_target(row: Mapping[str, Any], style: str) -> str | None:
    """Write a row's completion in a style; None where the context does not support one.

    An abstention stays as it is. A citing row needs a sentence that holds the answer and that the damaged passage still
    shows: a model that learns to write what it cannot read learns to invent. What is quoted is the clean sentence.

    Args:
        row: A row of `NoisyDataset`.
        style: One of `STYLES`.

    Raises:
        ValueError: The style is unknown.
    """
    if style not in STYLES:
        msg = f"Unknown style {style!r}. Choose one of: {', '.join(STYLES)}."
        raise ValueError(msg)
    completion = _fullest(row)
    if style == "span" or row["labels"]["abstain"]:
        return completion
    spans = _spans(row, completion)
    place = _supporting(row["passages"], spans)
    if place is None:
        return None
    cited = f"[{place + 1}] "
    if row["labels"]["contradiction"]:
        return cited + completion
    sentence = _sentence(row, spans, str(row["passages"][place]["text"]))
    if sentence is None:
        return None
    return cited + completion if style == "cited" else f"{cited}{sentence}\n{ANSWER_MARK}{completion}"


def _fullest(row: Mapping[str, Any]) -> str:
    """Return the completion, or the longest form of the answer that the context holds where there are several."""
    completion = str(row["completion"])
    if row["labels"]["abstain"] or row["labels"]["contradiction"] or completion not in row["answers"]:
        return completion
    texts = [str(passage["text"]) for passage in row["passages"] if passage["role"] in GOLD_ROLES]
    held = [
        str(answer)
        for answer, spans in zip(row["answers"], row["answer_spans"], strict=True)
        if all(any(contains_answer(text, [span]) for text in texts) for span in spans)
    ]
    return max(held, key=len, default=completion)


def _spans(row: Mapping[str, Any], completion: str) -> Sequence[str]:
    """Return the spans of the form of the answer that the completion gives."""
    for form in row["answer_spans"]:
        if all(contains_answer(completion, [span]) for span in form):
            return list(form)
    return [completion]


def _supporting(passages: Sequence[Mapping[str, Any]], spans: Sequence[str]) -> int | None:
    for index, passage in enumerate(passages):
        if passage["role"] in GOLD_ROLES and contains_answer(str(passage["text"]), [spans[0]]):
            return index
    return None


def _sentence(row: Mapping[str, Any], spans: Sequence[str], shown: str) -> str | None:
    """Choose the clean sentence that holds the answer and shares most words with the question."""
    asked = set(normalise_answer(str(row["question"])).split())
    best, best_score = None, -1.0
    for passage in row["clean"]:
        for sentence in _SENTENCE_END.split(str(passage["text"])):
            text = " ".join(sentence.split())
            if not text or not all(contains_answer(text, [span]) for span in spans):
                continue
            text = words_around(text, spans, MOST_WORDS) or text
            score = len(asked & set(normalise_answer(text).split()))
            if score > best_score and fuzz.partial_ratio(text, shown) >= _READABLE:
                best, best_score = text, score
    return best
