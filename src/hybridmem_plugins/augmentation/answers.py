"""Is the answer in this text? The one definition that labels, filters and evaluation share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# Invisible format characters (zero-width spaces and joiners, soft hyphen, byte order mark) hide nothing from a reader.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_LINE_HYPHEN = re.compile(r"(?<=\w)[-\u2010]\n(?=\w)")
_DIGIT_COMMA = re.compile(r",(?<=\d,)(?=\d{3}\b)")
# Scripts written without spaces: each character is a token of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_TOKEN = re.compile(rf"[{_UNSPACED}]|\d+(?:\.\d+)+|[^\W_{_UNSPACED}]+")
_ASCII_TOKEN = re.compile(r"\d+(?:\.\d+)+|[^\W_]+", re.ASCII)
_ARTICLES = frozenset({"a", "an", "the"})


def normalise_answer(text: str) -> str:
    """Reduce a text to what counts when answers are compared.

    Unicode compatibility form (NFKC), case folded, without invisible characters, line-break hyphens, thousands commas,
    punctuation and English articles; tokens are joined by one space. After the evaluation script of SQuAD, but
    punctuation separates tokens instead of vanishing, so that "1912" is found in "1912–13" and "John" in "John's".

    >>> normalise_answer("The  U.S.\u00a0economy grew 3.5%, to 1,000 \ufb01rms")
    'u s economy grew 3.5 to 1000 firms'
    """
    return " ".join(_tokens(_folded(text)))


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Tell whether any of the answers (aliases of one another) occurs in the text, on token boundaries.

    An answer of nothing but articles and punctuation is looked for as it stands.

    >>> contains_answer("It was 1912–13, in NEW\u00a0YORK.", ["New York"])
    True
    >>> contains_answer("the category", ["cat"])
    False
    """
    folded = _folded(text)
    for answer in answers:
        wanted, rarest = _wanted(answer)
        if not wanted:
            if answer.strip() and answer.strip() in text:
                return True
        # Looking for the longest token's letters first spares most texts from being cut into tokens.
        elif rarest in folded and (_near(folded, wanted, rarest) or f" {wanted} " in _padded(folded)):
            return True
    return False


def _near(folded: str, wanted: str, rarest: str) -> bool:
    """Tell whether an answer is where its longest token first stands; where not, the whole text has to be cut."""
    at = folded.find(rarest)
    start = folded.rfind(" ", 0, max(0, at - len(wanted) - _SLACK)) + 1
    end = folded.find(" ", at + len(wanted) + _SLACK)
    return f" {wanted} " in f" {' '.join(_tokens(folded[start : end if end >= 0 else None]))} "


def whole_words(answer: str, text: str) -> str | None:
    """Grow an answer that was cut inside a word to the whole words of the text; None where it does not occur at all.

    Span annotations are often a letter off. A target of "nfluenza viru" would teach the model to write such.

    >>> whole_words("nfluenza viru", "the influenza viruses")
    'influenza viruses'
    """
    if contains_answer(text, [answer]):
        return answer
    start = text.find(answer) if answer.strip() else -1
    if start < 0:
        return None
    end = start + len(answer)
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    grown = text[start:end].strip().strip(".,;:()[]")
    return grown if contains_answer(text, [grown]) else text[start:end]


@lru_cache(maxsize=16384)
def _wanted(answer: str) -> tuple[str, str]:
    tokens = _tokens(_folded(answer))
    return " ".join(tokens), max(tokens, key=len, default="")


# Articles and punctuation that may stand between an answer's tokens.
_SLACK = 16


# The same chunks are asked about again and again.
@lru_cache(maxsize=16384)
def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    if "-\n" in text or "\u2010\n" in text:
        text = _LINE_HYPHEN.sub("", text)
    if "," in text:
        text = _DIGIT_COMMA.sub("", text)
    return text.casefold()


@lru_cache(maxsize=1024)
def _padded(folded: str) -> str:
    return f" {' '.join(_tokens(folded))} "


def _tokens(folded: str) -> list[str]:
    pattern = _ASCII_TOKEN if folded.isascii() else _TOKEN
    return [token for token in pattern.findall(folded) if token not in _ARTICLES]
