"""Headings and blocks of a file to sections, and sections to pieces of a bounded length."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Block", "Heading", "Section", "count_words", "pack", "sections"]

WHOLE_LIMIT = 4
"""Code and tables are split only when they exceed this many times the wanted length."""

_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+(?=\S)|(?<=[。！？])(?=\S)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, from level 1 (outermost) to 6."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, list, table or piece of code.

    Attributes:
        text: The block as Markdown or plain text.
        whole: Whether splitting would spoil it, as with code and tables.
    """

    text: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between two headings.

    Attributes:
        path: The headings above it, outermost first; empty before the first heading.
        blocks: Its content in order.
    """

    path: tuple[str, ...]
    blocks: list[Block]


@dataclass(frozen=True, slots=True)
class _Unit:
    text: str
    words: int
    joint: str


def count_words(text: str) -> int:
    """Count words; two characters of a script without spaces, or twelve of an endless string, count as one.

    >>> count_words("Dynamic random-access memory")
    3
    >>> count_words("半導体メモリ")
    3
    """
    spaced, unspaced = _UNSPACED.subn(" ", text)
    # Rounded up and with room for a joint, so that the parts of a text never count less than the text.
    return max(len(spaced.split()) + (unspaced + 1) // 2, (len(text) + 13) // 12)


def sections(parts: Iterable[Heading | Block]) -> list[Section]:
    """Group blocks under the headings that they stand below; headings without a block of their own are left out.

    >>> parts = [Heading(1, "Guide"), Heading(2, "Install"), Block("Run pip.")]
    >>> [(section.path, len(section.blocks)) for section in sections(parts)]
    [(('Guide', 'Install'), 1)]
    """
    found = [Section((), [])]
    above: list[Heading] = []
    for part in parts:
        if isinstance(part, Heading):
            above = [heading for heading in above if heading.level < part.level] + [part]
            found.append(Section(tuple(heading.text for heading in above), []))
        else:
            found[-1].blocks.append(part)
    return [section for section in found if section.blocks]


def pack(blocks: Iterable[Block], max_words: int) -> list[str]:
    r"""Join blocks into pieces of similar length, none longer than wanted unless a whole block alone is.

    Blocks that are too long are split at sentences, then at lines, then between words.

    Args:
        blocks: What to join, in order.
        max_words: Longest piece, as measured by `count_words`.

    >>> pack([Block("One two."), Block("Three four."), Block("Five six. Seven eight nine.")], 4)
    ['One two.\n\nThree four.', 'Five six.', 'Seven eight nine.']
    """
    units = [unit for block in blocks for unit in _units(block, max_words)]
    total = sum(unit.words for unit in units)
    # Aiming at equal pieces avoids a last one of a few words, which would match almost anything.
    target = total / max(1, math.ceil(total / max_words))
    pieces: list[str] = []
    current, length = "", 0
    for unit in units:
        if current and (length + unit.words > max_words or length >= target):
            pieces.append(current)
            current, length = "", 0
        current = current + unit.joint + unit.text if current else unit.text
        length += unit.words
    return [*pieces, current] if current else pieces


def _units(block: Block, max_words: int) -> Iterator[_Unit]:
    words = count_words(block.text)
    if words <= max_words * (WHOLE_LIMIT if block.whole else 1):
        yield _Unit(block.text, words, "\n\n")
        return
    joint, texts = ("\n", block.text.split("\n")) if block.whole else (" ", _SENTENCE_END.split(block.text))
    before = ""
    for text in texts:
        for piece in _cut(text, max_words):
            spaceless = joint == " " and before.endswith(("。", "！", "？"))
            yield _Unit(piece, count_words(piece), ("" if spaceless else joint) if before else "\n\n")
            before = piece


def _cut(text: str, max_words: int) -> Iterator[str]:
    """Yield the text itself if short enough, else its lines, else runs of words, else runs of characters."""
    if count_words(text) <= max_words:
        if text.strip():
            yield text.rstrip()
        return
    lines = text.split("\n")
    tokens = text.split()
    if len(lines) > 1:
        parts = lines
    elif len(tokens) > 1:
        middle = len(tokens) // 2
        parts = [" ".join(tokens[:middle]), " ".join(tokens[middle:])]
    elif len(text) > 1:
        parts = [text[: len(text) // 2], text[len(text) // 2 :]]
    else:
        parts = []
        yield text
    for part in parts:
        yield from _cut(part, max_words)
