"""Tell whether two answers say the same in other words: dates, names and spellings differ between passages."""

from __future__ import annotations

import re
from functools import lru_cache

from rapidfuzz.distance import OSA

from hybridmem_plugins.augmentation.answers import normalise_answer
from hybridmem_plugins.extraction.tokens import without_accents

LONG = 5
"""Letters that a word needs before one letter that differs is taken for another spelling."""

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_SHORT = {month[:3]: month for month in _MONTHS} | {"sept": "september"}
_BEFORE = frozenset(["in", "on", "at", "by", "from"])
_BESIDE = frozenset(f"{day}day" for day in ("mon", "tues", "wednes", "thurs", "fri", "satur", "sun"))
_NUMERIC = re.compile(r"\b(\d{1,4})([/.-])(\d{1,2})\2(\d{1,4})\b")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")


@lru_cache(maxsize=4096)
def form_words(answer: str) -> frozenset[str]:
    """Reduce an answer to the words that its other forms share.

    As `normalise_answer`, without accents and without a preposition at the beginning. In dates the months are written
    out, and weekdays and the endings of ordinal numbers left out. Where day and month of a numeric date might be
    either, the month is first, but the day where full stops part them.

    >>> form_words("Sunday, Nov. 17th") == form_words("November 17")
    True
    >>> form_words("10/27/2017") == form_words("27 October 2017")
    True
    """
    written = _NUMERIC.sub(_written_out, without_accents(answer))
    words = [_SHORT.get(word, word) for word in normalise_answer(written).split()]
    words = words[1:] if len(words) > 1 and words[0] in _BEFORE else words
    if not any(word in _MONTHS for word in words):
        return frozenset(words)
    days = ((word, _ORDINAL.fullmatch(word)) for word in words if word not in _BESIDE)
    return frozenset((found[1] if found else word).lstrip("0") or word for word, found in days)


def is_numeric_date(answer: str) -> bool:
    """Tell whether an answer gives a date in figures only, as `6/19/2020`."""
    return any(_written_out(found) != found[0] for found in _NUMERIC.finditer(answer))


def _written_out(found: re.Match[str]) -> str:
    first, second, third = int(found[1]), int(found[3]), int(found[4])
    leads = len(found[1]) == 4
    year, month, day = (first, second, third) if leads else (third, first, second)
    if month > 12 or (found[2] == "." and day <= 12 and not leads):
        month, day = day, month
    dated = 1 <= month <= 12 and 1 <= day <= 31 and 4 in (len(found[1]), len(found[4]))
    return f"{_MONTHS[month - 1]} {day} {year}" if dated else found[0]


def is_within(shorter: frozenset[str], fuller: frozenset[str]) -> bool:
    """Tell whether each word of one answer stands in another, as it is, spelt out or one letter off.

    >>> is_within(form_words("R. Nadal"), form_words("Rafael Nadal"))
    True
    >>> is_within(form_words("Rafael Nadal"), form_words("R. Nadal"))
    False
    """
    missing, left = shorter - fuller, sorted(fuller - shorter)
    for word in sorted(missing):
        other = next((one for one in left if _is_form_of(word, one)), None)
        if other is None:
            return False
        left.remove(other)
    return bool(shorter)


def _is_form_of(word: str, other: str) -> bool:
    if not (word.isalpha() and other.isalpha()):
        return False
    if len(word) == 1:
        return other.startswith(word)
    return min(len(word), len(other)) >= LONG and OSA.distance(word, other, score_cutoff=1) <= 1
