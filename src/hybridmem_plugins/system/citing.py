"""In which of the sources does an answer stand?"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.passage import Passage

FOUND_SHARE = 0.8
"""A longer reply counts as found where the sources hold at least this share of its telling words."""

MOST_CITED = 3
"""Sources that one answer cites at most."""

POLAR = frozenset({"yes", "no"})
"""Answers that stand in no source even when they are right."""

DISAGREEMENT = "passages disagree"
"""Part of what a reply says that sets two readings side by side, each in “quotation marks”."""

_QUOTED = re.compile("“([^”]+)”")
_STEM = 5
_MARK = re.compile(r"\s*\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_COMMON = frozenset(
    "of in on at to for from by with and or but as is are was were be been being it its this that these those there "
    "he she they his her their who whom whose which what when where why how has have had do does did not no than then "
    "also can could will would may might must so such into over under about after before between during both".split()
)


@dataclass(frozen=True, slots=True)
class Support:
    """Where an answer was found.

    Attributes:
        numbers: Positions of the sources, from 1, best first; empty where none holds the answer.
        share: Share of the answer's telling words that those sources hold, in [0, 1]; 1 where it stands there whole.
    """

    numbers: tuple[int, ...]
    share: float


def split_marks(reply: str, count: int) -> tuple[str, list[int]]:
    """Take citation marks such as `[2]` or `[1, 3]` out of a reply.

    Args:
        reply: What the model wrote.
        count: How many sources there are; other numbers are not taken for marks.

    Returns:
        The text without them, and the numbers in the order in which they were cited.

    >>> split_marks("In Terrell, Texas [2].", 3)
    ('In Terrell, Texas.', [2])
    """
    claimed: list[int] = []

    def take(found: re.Match[str]) -> str:
        numbers = [int(number) for number in re.findall(r"\d+", found[1])]
        if not all(1 <= number <= count for number in numbers):
            return found[0]
        claimed.extend(numbers)
        return ""

    text = _MARK.sub(take, reply).strip()
    return text, list(dict.fromkeys(claimed))


def find_support(question: str, text: str, passages: Sequence[Passage], claimed: Collection[int] = ()) -> Support:
    """Find the sources that hold an answer.

    A source holds it when the normalised answer occurs in its title or text. A reply of several words that stands
    nowhere as it is may be a sentence of the model's own: then the sources that hold most of its telling words (those
    that are neither common nor the question's) are cited, and together have to hold `FOUND_SHARE` of them. Of an
    answer that begins with yes or no, the rest is looked for; of one that sets two readings side by side, each of them.

    Args:
        question: What was asked.
        text: The answer, without citation marks.
        passages: The sources by number, from 1.
        claimed: Numbers that the model cited; where such a source holds the answer it comes first.

    >>> find_support("Where?", "Terrell, Texas", [Passage("It was hot."), Passage("Born in Terrell, Texas.")])
    Support(numbers=(2,), share=1.0)
    """
    texts = [f"{passage.title or ''}\n{passage.text}" for passage in passages]
    asked = set(normalise_answer(question).split())
    if (start := _verdict(text)) in POLAR:
        text = text.strip()[len(start) :].strip(" ,.;:-–—") or text
    spans = _QUOTED.findall(text) if DISAGREEMENT in text else []
    if spans:
        holders = [[n for n, held in enumerate(texts, 1) if contains_answer(held, [span])] for span in spans]
        cited = tuple(dict.fromkeys(numbers[0] for numbers in holders if numbers))
        return Support(cited if all(holders) else (), sum(map(bool, holders)) / len(spans))
    whole = [number for number, held in enumerate(texts, 1) if contains_answer(held, [text])]
    if whole:
        best = sorted(whole, key=lambda number: (number not in claimed, -_shared(asked, texts[number - 1]), number))
        return Support(tuple(best[:MOST_CITED]), 1.0)
    telling = _telling(question, text)
    return _gather(telling, texts, claimed) if telling else Support((), 0.0)


def _telling(question: str, text: str) -> list[str]:
    """Return the words of an answer that are neither common nor the question's."""
    asked = set(normalise_answer(question).split())
    stems = {word[:_STEM] for word in asked if len(word) >= _STEM}
    return [
        word
        for word in dict.fromkeys(normalise_answer(text).split())
        if word not in _COMMON | asked and word[:_STEM] not in stems
    ]


def _verdict(text: str) -> str:
    """Return the first word of an answer."""
    return normalise_answer(text).split(" ", 1)[0]


def _shared(asked: set[str], text: str) -> int:
    return len(asked.intersection(normalise_answer(text).split()) - _COMMON)


def _gather(telling: list[str], texts: Sequence[str], claimed: Collection[int]) -> Support:
    """Take the source that holds most of what no source taken so far holds, until nothing or enough is left."""
    words = {number: set(normalise_answer(text).split()) for number, text in enumerate(texts, 1)}
    missing, taken = set(telling), list[int]()
    while missing and len(taken) < MOST_CITED:
        left = [number for number in words if number not in taken]
        best = max(left, key=lambda number: (len(missing & words[number]), number in claimed, -number), default=0)
        if not best or not missing & words[best]:
            break
        taken.append(best)
        missing -= words[best]
    share = 1 - len(missing) / len(telling)
    return Support(tuple(taken) if share >= FOUND_SHARE else (), share)


def is_polar(question: str, text: str) -> bool:
    """Tell whether an answer is a yes or no that adds nothing to the question, so cannot be looked up in any source.

    >>> is_polar("Was she born in Paris?", "Yes, she was born in Paris."), is_polar("Was it Eve?", "No, it was Ada.")
    (True, False)
    """
    return _verdict(text) in POLAR and set(_telling(question, text)) <= POLAR
