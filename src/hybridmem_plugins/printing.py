"""Foreign text made fit to be shown: on a terminal, in a picture, on a page."""

from __future__ import annotations

import re

# Control characters, overrides of the writing direction, and halves of surrogate pairs (file names may hold them).
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Replace what could rewrite the terminal of someone who reads a foreign document, or cannot be encoded."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(text: str, length: int) -> str:
    """Return a text on one line, cut at a word where it is longer than so many characters.

    >>> shorten("a  long   line", 8)
    'a long…'
    """
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= length else flat[: length - 1].rsplit(" ", 1)[0] + "…"
