"""The sentence of a passage that an answer stands on."""

from __future__ import annotations

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer, words_around
from hybridmem_plugins.extraction.sentences import sentence_spans

MOST_QUOTED = 25
"""Words of evidence that are quoted; a longer sentence is cut to those around the answer."""


def find_evidence(question: str, answer: str, text: str) -> str:
    """Return the sentence of a passage that holds an answer and shares most words with the question.

    Args:
        question: What was asked.
        answer: What was answered from the passage.
        text: The passage.

    Returns:
        The sentence, verbatim but for white space; where it has more than `MOST_QUOTED` words, those around the answer.
        Empty where no sentence holds the answer.

    >>> find_evidence("When did Ada write it?", "1843", "It is old. Ada wrote it in 1843. In 1843 it rained.")
    'Ada wrote it in 1843.'
    """
    asked = set(normalise_answer(question).split())
    sentences = (" ".join(text[start:end].split()) for start, end in sentence_spans(text))
    holding = [one for one in sentences if answer and contains_answer(one, [answer])]
    best = max(holding, key=lambda one: len(asked & set(normalise_answer(one).split())), default="")
    return words_around(best, [answer], MOST_QUOTED) if best else ""
