"""Is the answer in this text? The one definition that labels, filters and evaluation share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
"""Format characters (zero-width spaces and joiners, soft hyphen, byte order mark) that hide nothing from a reader."""

_LINE_HYPHEN = re.compile(r"(?<=\w)[-\u2010]\n(?=\w)")
_DIGIT_COMMA = re.compile(r",(?<=\d,)(?=\d{3}\b)")
# Scripts written without spaces (Chinese, Japanese, Thai, Lao, Burmese, Khmer): each character is a token of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0ecf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
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
        wanted, tokens, rarest = _wanted(answer)
        if not wanted:
            if answer.strip() and answer.strip() in text:
                return True
        # Looking for letters first spares most texts from being cut into tokens.
        elif rarest in folded and (_stands(folded, wanted, rarest) or (len(tokens) > 1 and _spread(folded, tokens))):
            return True
    return False


def _stands(folded: str, wanted: str, rarest: str) -> bool:
    """Tell whether the answer is close around a place where its longest token stands."""
    at = folded.find(wanted)
    if at >= 0 and folded[at - 1 : at] in _PLAIN_BEFORE and folded[at + len(wanted) :][:1] in _PLAIN_AFTER:
        return True
    reach, done = len(wanted) + _SLACK, 0
    at = folded.find(rarest)
    while at >= 0:
        # No token contains a blank, so what stands between two of them is cut as in the whole text.
        start = folded.rfind(" ", 0, max(0, at - reach)) + 1
        end = folded.find(" ", at + reach)
        done = end if end >= 0 else len(folded)
        if f" {wanted} " in f" {' '.join(_tokens(folded[start:done]))} ":
            return True
        at = folded.find(rarest, max(at + 1, done - reach))
    return False


def _spread(folded: str, tokens: tuple[str, ...]) -> bool:
    """Tell whether the answer's tokens follow one another anywhere, however much punctuation is between them."""
    return all(token in folded for token in tokens) and f" {' '.join(tokens)} " in _padded(folded)


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


@lru_cache(maxsize=4096)
def _wanted(answer: str) -> tuple[str, tuple[str, ...], str]:
    tokens = tuple(_tokens(_folded(answer)))
    return " ".join(tokens), tokens, max(tokens, key=len, default="")


# Articles and punctuation that may stand between an answer's tokens.
_SLACK = 16
# Beside these, what reads like the answer's tokens is them ("" is the edge of the text; a point may be a decimal one).
_PLAIN_BEFORE = frozenset(["", *" \n\t(\"'"])
_PLAIN_AFTER = frozenset(["", *" \n\t,;:)\"'!?"])


# The same chunks are asked about again and again.
@lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    if "-\n" in text or "\u2010\n" in text:
        text = _LINE_HYPHEN.sub("", text)
    if "," in text:
        text = _DIGIT_COMMA.sub("", text)
    return text.casefold()


@lru_cache(maxsize=1024)
def _padded(folded: str) -> str:
    return f" {' '.join(_tokens(folded))} "


@cache
def _token() -> re.Pattern[str]:
    """Make the pattern of a token beyond ASCII: letters with their combining marks, as Hindi writes its vowels."""
    # Up to the variation selectors, which only choose how a character looks.
    marks = "".join(c for c in map(chr, range(0x300, 0xFE00)) if unicodedata.category(c) in ("Mn", "Mc"))
    word = rf"[^\W_{_UNSPACED}]"
    return re.compile(rf"[{_UNSPACED}]|\d+(?:\.\d+)+|{word}+(?:[{marks}]+{word}*)*")


def _tokens(folded: str) -> list[str]:
    pattern = _ASCII_TOKEN if folded.isascii() else _token()
    return [token for token in pattern.findall(folded) if token not in _ARTICLES]


def words_around(text: str, spans: Sequence[str], most: int) -> str:
    """Cut a sentence of more than so many words to those around all spans of an answer; empty where none hold them.

    >>> words_around("Well before that, in 1843, she wrote it down", ["1843"], 3)
    'in 1843, she'
    """
    words = text.split(" ")
    windows = (" ".join(words[at : at + most]) for at in range(max(1, len(words) - most + 1)))
    fitting = [window for window in windows if all(contains_answer(window, [span]) for span in spans)]
    return fitting[len(fitting) // 2] if fitting else ""
