"""Noise in the characters: what keyboards, scanners, encoders and PDF extractors do."""

from __future__ import annotations

import html.entities
import random
import re

from hybridmem_plugins.augmentation.edits import Change
from hybridmem_plugins.augmentation.operators.registry import insertion, operator, pick

_WORD = re.compile(r"[^\W\d_]{4,}")
_KEYS = {
    letter: near
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for letter, near in zip(row, [row[1], *map("".join, zip(row, row[2:], strict=False)), row[-2]], strict=True)
}


@operator("characters", unit="words of four letters or more", typical=0.08)
def typos(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Words get one keyboard slip: two letters swapped, one lost, one doubled, or a neighbouring key."""
    return [
        Change(word.start() + at, word.start() + at + 2, _slip(word[0][at : at + 2], rng))
        for word in pick(_WORD.finditer(text), severity, rng)
        for at in [rng.randrange(1, len(word[0]) - 1)]
    ]


def _slip(pair: str, rng: random.Random) -> str:
    first, second = pair[0], pair[1]
    near = _KEYS.get(first, second)
    slips = [second + first, second, first + pair, rng.choice(near) + second]
    return rng.choice([slip for slip in slips if slip != pair])


# Shapes that scanners take for one another; longest first in the pattern.
_OCR = {"rn": "m", "cl": "d", "vv": "w", "m": "rn", "d": "cl", "w": "vv", "l": "1", "1": "l", "O": "0", "0": "O",
        "I": "l", "S": "5", "5": "S", "B": "8", "8": "B", "Z": "2", "2": "Z", "e": "c", "h": "b", "g": "q"}  # fmt: skip
_OCR_SHAPE = re.compile("rn|cl|vv|[mdwl1O0IS5B8Z2ehg]")


@operator("characters", unit="characters that a scanner may confuse", typical=0.03)
def ocr_confusions(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Letters and digits are taken for others of the same shape (rn/m, l/1, O/0, S/5)."""
    return [Change(*shape.span(), _OCR[shape[0]]) for shape in pick(_OCR_SHAPE.finditer(text), severity, rng)]


_SPACE = re.compile(" ")
_ANY_WORD = re.compile(r"\w+")
_JOINED = re.compile("ff[il]?|f[il]")
# Latin, Greek and Cyrillic: other scripts are not hyphenated.
_LONG_WORD = re.compile("[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u0373\u0386-\u04ff]{7,}")


@operator("characters", unit="words of seven letters or more", typical=0.1)
def line_break_hyphens(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Long words are hyphenated over a line break, as on the printed page."""
    return [
        insertion(word.start() + _syllable(word[0], rng), "-\n")
        for word in pick(_LONG_WORD.finditer(text), severity, rng)
    ]


_SYLLABLE = re.compile("[^aeiouy](?=[aeiouy])", re.IGNORECASE)


def _syllable(word: str, rng: random.Random) -> int:
    """Choose where a long word is parted: before a consonant that a vowel follows, as typesetters mostly do."""
    starts = [found.start() for found in _SYLLABLE.finditer(word, 3, len(word) - 1)]
    return rng.choice(starts or range(3, len(word) - 2))


@operator("characters", unit="spaces", typical=0.1)
def nbsp(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Spaces become no-break spaces (U+00A0)."""
    return [Change(*space.span(), "\u00a0") for space in pick(_SPACE.finditer(text), severity, rng)]


@operator("characters", unit="words of four letters or more", typical=0.05)
def zero_width(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Invisible characters (zero-width space, joiner, soft hyphen) get into words."""
    return [
        insertion(word.start() + rng.randrange(1, len(word[0])), rng.choice("\u200b\u200d\u00ad"))
        for word in pick(_WORD.finditer(text), severity, rng)
    ]


_TYPOGRAPHIC = {"'": "\u2019", '"': "\u201d"}
_ENCODED_APART = re.compile("[^\x00-\x7f]|['\"]")


@operator("characters", unit="quotes and non-ASCII characters", typical=0.5)
def mojibake(text: str, severity: float, rng: random.Random) -> list[Change]:
    """UTF-8 bytes are read as Windows-1252, so that é becomes Ã© and a quote becomes â€™."""
    return [
        Change(*found.span(), _misread(_TYPOGRAPHIC.get(found[0], found[0])))
        for found in pick(_ENCODED_APART.finditer(text), severity, rng)
    ]


def _misread(character: str) -> str:
    # Windows-1252 leaves five bytes undefined; programs read those as Latin-1.
    read = [bytes([byte]) for byte in character.encode("utf-8", "replace")]
    return "".join(byte.decode("cp1252" if byte not in _UNDEFINED else "latin-1") for byte in read)


_UNDEFINED = {b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d"}
_ESCAPABLE = re.compile("[&<>\"'\u00a0-\u00ff\u2013-\u2026\u20ac]")


@operator("characters", unit="characters that HTML escapes", typical=0.5)
def html_entities(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Characters arrive as HTML entities (&amp;, &quot;, &eacute;)."""
    return [Change(*found.span(), _entity(found[0])) for found in pick(_ESCAPABLE.finditer(text), severity, rng)]


def _entity(character: str) -> str:
    name = html.entities.codepoint2name.get(ord(character))
    return f"&{name};" if name else f"&#{ord(character)};"


_LIGATURES = {"ffi": "\ufb03", "ffl": "\ufb04", "ff": "\ufb00", "fi": "\ufb01", "fl": "\ufb02"}


@operator("characters", unit="letter groups that printers join", typical=0.7)
def ligatures(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Letter groups become single ligature characters (fi, fl, ff)."""
    return [Change(*found.span(), _LIGATURES[found[0]]) for found in pick(_JOINED.finditer(text), severity, rng)]


@operator("characters", unit="words with a capital", typical=1.0)
def lost_case(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Capitals are lost, as after a lower-casing preprocessor."""
    words = (word for word in _ANY_WORD.finditer(text) if word[0] != word[0].lower())
    return [Change(*word.span(), word[0].lower()) for word in pick(words, severity, rng)]


@operator("characters", unit="quotes and non-ASCII characters", typical=0.5)
def replacement_characters(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Characters that could not be decoded become U+FFFD."""
    return [Change(*found.span(), "\ufffd") for found in pick(_ENCODED_APART.finditer(text), severity, rng)]
