"""Plausible false copies of a passage: numbers, dates and names exchanged for others of their kind."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import Change, apply_changes

_NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w,]*\d)")
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+(?:[ -][A-Z][a-z]+)*\b", re.MULTILINE)
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_NAMES = ("Adeline Moreau", "Birchfield", "Corwin Hale", "Dorsania", "Elmstead", "Farouk Benali", "Greta Lindqvist",
          "Harwick", "Ivana Petrov", "Jasper Okafor", "Kestrel Bay", "Liang Wei", "Marisol Vega", "Northgate",
          "Oswin Thatcher", "Port Callum")  # fmt: skip


def substitute(value: str, rng: random.Random, earlier: bool = False) -> str | None:
    """Give another value of the same kind, or None where the value is neither number, date nor name.

    Args:
        value: What to replace, for instance "1912", "May 18, 2018" or "Ada Lovelace".
        rng: Chooses among the candidates.
        earlier: Move years backwards, as an outdated version has them.

    >>> substitute("a long explanation of the matter", random.Random(0)) is None
    True
    """
    replaced = _NUMBER.sub(lambda found: _other_number(found[0], rng, earlier), value)
    month = next((month for month in _MONTHS if month in value.split()), None)
    if month:
        replaced = replaced.replace(month, rng.choice([other for other in _MONTHS if other != month]), 1)
    if replaced != value:
        return replaced
    words = value.split()
    if words and len(words) <= 5 and any(word[:1].isupper() for word in words):
        return rng.choice([name for name in _NAMES if name.casefold() not in value.casefold()])
    return None


def _other_number(number: str, rng: random.Random, earlier: bool) -> str:
    if _YEAR.fullmatch(number):
        shift = rng.randint(2, 15)
        return str(int(number) - shift if earlier or rng.random() < 0.5 or int(number) > 2010 else int(number) + shift)
    digits = [at for at, character in enumerate(number) if character.isdigit()]
    at = digits[0] if len(digits) < 3 else rng.choice(digits[:2])
    other = rng.choice([digit for digit in "123456789" if digit != number[at]])
    return number[:at] + other + number[at + 1 :]


def answer_swap(
    text: str, answers: Sequence[str], rng: random.Random, earlier: bool = False
) -> tuple[list[Change], str]:
    """Exchange every occurrence of the answer for one false value.

    Returns:
        The changes and the planted value; no changes and "" where the answer's kind is unknown, or where some form of
        it would be left.
    """
    forms = sorted({answer for answer in answers if answer and answer.casefold() in text.casefold()}, key=len)
    planted = substitute(forms[-1], rng, earlier) if forms else None
    if not planted or contains_answer(planted, answers):
        return [], ""
    lower = text.lower()
    # A few capitals have longer small forms, which would move all offsets.
    comparable = lower if len(lower) == len(text) else text
    changes = [Change(*span, planted) for span in _whole_words(comparable, [form.lower() for form in reversed(forms)])]
    if not changes or contains_answer(apply_changes(text, changes), answers):
        return [], ""
    return changes, planted


def entity_swaps(text: str, entity: str, rng: random.Random) -> tuple[list[Change], str]:
    """Exchange an entity (and the single long words of its name) for another one, throughout a text."""
    other = substitute(entity, rng)
    if not other:
        return [], ""
    parts = [entity, *(word for word in entity.split() if len(word) > 3 and word[0].isupper())]
    return [Change(*span, other) for span in _whole_words(text, sorted(parts, key=len, reverse=True))], other


def _whole_words(text: str, forms: Sequence[str]) -> list[tuple[int, int]]:
    """Find where any of the forms stands, not inside a word; an earlier form goes before a later one.

    Every passage has other forms, and a regular expression of its own would take longer to compile than to use.
    """
    taken: list[tuple[int, int]] = []
    for form in dict.fromkeys(filter(None, forms)):
        start = text.find(form)
        while start >= 0:
            end = start + len(form)
            inside = text[start - 1 : start].isalnum() or text[end : end + 1].isalnum()
            if not inside and all(end <= first or last <= start for first, last in taken):
                taken.append((start, end))
            start = text.find(form, end)
    return sorted(taken)


def main_entity(text: str, title: str | None) -> str | None:
    """Say what a passage is about: its title where the text uses it, else its most frequent name."""
    plain = re.sub(r"\s*\(.*?\)", "", title or "").strip()
    if plain and plain[0].isupper() and plain in text:
        return plain
    names: dict[str, int] = {}
    for found in _NAME.finditer(text):
        names[found[0]] = names.get(found[0], 0) + 1
    return max(names, key=lambda name: (names[name], len(name), name)) if names else None
