"""Plausible false copies of a passage: numbers, dates and names exchanged for others of their kind."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import Change, apply_changes

_NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d,]*\d)?(?:\.\d+)?(?![\w,]*\d)")
_YEAR = re.compile(r"(?<!\d)(?:1[5-9]|20)\d\d(?!\d)")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+(?:[ -][A-Z][a-z]+)*\b", re.MULTILINE)
_LAST_YEAR = 2024
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
# Put together anew each time: a few fixed names would soon be known as the false ones. Invented, as a real one might be
# another form of the right answer.
_FIRST = ("Adeline", "Bertil", "Corwin", "Dalia", "Edwin", "Farouk", "Greta", "Hamish", "Ivana", "Jasper", "Katrin",
          "Liang", "Marisol", "Nadir", "Oswin", "Petra", "Quentin", "Rosalind", "Stellan", "Tamsin")  # fmt: skip
LAST_NAMES = ("Alderton", "Benali", "Castellan", "Dunmore", "Eberhardt", "Fairweather", "Grimaldi", "Hale", "Ivarsson",
         "Jankowski", "Kestrel", "Lindqvist", "Moreau", "Norwell", "Okafor", "Petrov", "Rutledge", "Thatcher",
         "Vega", "Whitcombe")  # fmt: skip
_PLACE = ("Alder", "Birch", "Callum", "Dorn", "Elm", "Fern", "Grey", "Har", "Kest", "Lang", "North", "Oak", "Pem",
          "Stan", "Thorn", "Wex")  # fmt: skip
_PLACE_ENDS = ("bridge", "bury", "field", "ford", "haven", "mouth", "stead", "ton", "vale", "wick")
_INSTITUTION = re.compile(
    r"\b(?:University|College|School|Institute|Museum|Hospital|Company|Corporation|Corp\.?|Inc\.?|Ltd\.?|Group|Bank"
    r"|Party|League|Club|Church|Award|Prize|River|Lakes?|Islands?|County|Park|Street|Bridge|Castle|Press)$"
)
_BEFORE_PLACE = re.compile(r"\b(?:in|at|near|to|from|of|outside|around)(?: the)?\s+$", re.IGNORECASE)
_SMALL = frozenset("the of and a an in on for de la van von der du al".split())


def substitute(value: str, rng: random.Random, earlier: bool = False, before: str = "") -> str | None:
    """Give another value of the same kind, or None where the value is neither number, date nor name.

    Args:
        value: What to replace, for instance "1912", "May 18, 2018" or "Ada Lovelace".
        rng: Chooses among the candidates.
        earlier: Move years backwards, as an outdated version has them.
        before: The text before it, which tells a place ("in ...") from a person.

    >>> substitute("a long explanation of the matter", random.Random(0)) is None
    True
    """
    month = next((month for month in _MONTHS if month in value.split()), None)
    replaced = _NUMBER.sub(lambda found: _other_number(found, rng, earlier, month is not None), value)
    if month:
        replaced = replaced.replace(month, rng.choice([other for other in _MONTHS if other != month]), 1)
    if replaced != value:
        return replaced
    names = [word for word in value.split() if word.casefold() not in _SMALL]
    if names and len(names) <= 5 and all(word[:1].isupper() for word in names):
        return _other_name(value, names, rng, before)
    return None


def _other_name(value: str, names: Sequence[str], rng: random.Random, before: str) -> str:
    """Make up a name of the same kind: of an institution, a place or a person, as short as the given one."""
    kind = _INSTITUTION.search(value)
    place = rng.choice(_PLACE) + rng.choice(_PLACE_ENDS)
    if kind and len(names) > 1:
        return f"{place} {kind[0]}"
    if _BEFORE_PLACE.search(before):
        return place
    last = rng.choice(LAST_NAMES)
    return last if len(names) == 1 else f"{rng.choice(_FIRST)} {last}"


def _other_number(found: re.Match[str], rng: random.Random, earlier: bool, in_date: bool) -> str:
    number = found[0]
    if _YEAR.fullmatch(number):
        decade = found.string[found.end() :][:1] == "s"
        shift = 10 * rng.randint(1, 4) if decade else rng.randint(2, 15)
        back = earlier or rng.random() < 0.5 or int(number) + shift > _LAST_YEAR
        return str(int(number) - shift if back else int(number) + shift)
    if in_date and number.isdigit() and int(number) <= 31:
        return str(rng.choice([day for day in range(1, 29) if day != int(number)]))
    digits = [at for at, character in enumerate(number) if character.isdigit()]
    # "05" is a day or a month and stays one.
    at = digits[-1] if number[0] == "0" else digits[0] if len(digits) < 3 else rng.choice(digits[:2])
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
    forms = sorted(
        {answer for answer in answers if answer and answer.casefold() in text.casefold()},
        key=lambda form: (len(form), form),
    )
    before = text[: text.casefold().find(forms[-1].casefold())][-30:] if forms else ""
    planted = substitute(forms[-1], rng, earlier, before) if forms else None
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
    other = substitute(entity, rng, before=text[: max(0, text.find(entity))][-30:])
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
        if found[0] not in _MONTHS:
            names[found[0]] = names.get(found[0], 0) + 1
    return max(names, key=lambda name: (names[name], len(name), name)) if names else None
