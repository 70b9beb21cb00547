"""Sentence boundaries, by punctuation and layout, for any script."""

from __future__ import annotations

import re

# A stop followed by space and something that can open a sentence, a full-width stop, or a line break.
_BOUNDARY = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*(?=\s+[^\sa-zß-öø-ÿ])|[。！？｡।؟]+[」』”]*|\n+")
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
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        end = match.end()
        if match.group() == "." and _ABBREVIATION.search(text, max(start, end - _LONGEST_ABBREVIATION), end):
            continue
        _append(spans, text, start, end)
        start = end
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    inner = piece.strip()
    if inner:
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(inner)))
