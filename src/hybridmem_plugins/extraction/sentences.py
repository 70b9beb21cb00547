"""Sentence boundaries, by punctuation and layout, for any script."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A stop followed by space and something that can open a sentence, a full-width stop, or a line break. What can open a
# match comes first and alone, so that searching skips to such characters.
_BOUNDARY = re.compile(
    r"[.!?…。！？｡।؟\n](?:"
    r"(?<=[.!?…])(?<![.!?…]{2})[.!?…]*[\"'”’»)\]]*(?=\s+[^\sa-zß-öø-ÿ])"
    r"|(?<=[。！？｡।؟])[。！？｡।؟]*[」』”]*"
    r"|(?<=\n)\n*)"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"“])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Lt|Col|Gen|Capt|Sgt|Rev|Hon|Mt|Ft|No|vs|c|ca|cf|approx|est|e\.g|i\.e|"
    r"Inc|Ltd|Co|Corp|Bros|Vol|Op|Nr|Bd|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.$"
)
_LONGEST_ABBREVIATION = 8


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return the `(start, end)` character offsets of the sentences of a text, in order.

    >>> text = "Dr. Ada met J. R. Smith. They spoke. 東京は首都。大阪は都市。"
    >>> [text[a:b] for a, b in sentence_spans(text)]
    ['Dr. Ada met J. R. Smith.', 'They spoke.', '東京は首都。', '大阪は都市。']
    """
    return list(each_sentence(text))


def each_sentence(text: str) -> Iterator[tuple[int, int]]:
    """Yield what `sentence_spans` returns, without looking further than asked for."""
    start = 0
    for match in _BOUNDARY.finditer(text):
        end = match.end()
        if match.group() == "." and _ABBREVIATION.search(text, max(start, end - _LONGEST_ABBREVIATION), end):
            continue
        if span := _trimmed(text, start, end):
            yield span
        start = end
    if span := _trimmed(text, start, len(text)):
        yield span


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    inner = piece.strip()
    if not inner:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(inner)
