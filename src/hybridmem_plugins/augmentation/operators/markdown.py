"""Where Markdown's structures really are in a text, found by a parser and not by guessing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its span, the span of header and delimiter together, and of each body row (line ends included)."""

    start: int
    end: int
    header: Span
    rows: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Structures:
    """Everything of a text that Markdown gives a meaning."""

    tables: tuple[Table, ...] = ()
    fences: tuple[Span, ...] = ()
    headings: tuple[Span, ...] = ()
    list_items: tuple[Span, ...] = ()


# Plain prose has no sign of a table, fence, heading or list, and is not parsed at all.
_LIST_MARK = re.compile(r"\n[ \t]*(?:[-+*]|\d{1,9}[.)])[ \t]")


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


def structures(text: str) -> Structures:
    r"""Find the structures of a text.

    >>> [span.start for span in structures("intro\n\n# Title\n\n- one\n- two\n").list_items]
    [16, 22]
    """
    marked = any(mark in text for mark in ("|", "```", "~~~", "#")) or _LIST_MARK.search("\n" + text)
    return _parsed(text) if marked else _NONE


def tables(text: str) -> tuple[Table, ...]:
    """Find the tables of a text."""
    return structures(text).tables if "|" in text else ()


_NONE = Structures()


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Structures:
    # The parser counts \n (and \r\n, \r) as line ends, not the others that str.splitlines knows.
    starts = [0, *(found.end() for found in re.finditer(r"\r\n|\n|\r", text)), len(text)]
    tokens = _parser().parse(text)

    def span(token: Token) -> Span:
        first, last = token.map or (0, 0)
        return Span(starts[min(first, len(starts) - 1)], starts[min(last, len(starts) - 1)])

    found: dict[str, list[Span]] = {}
    for token in tokens:
        if token.map is not None:
            found.setdefault(token.type, []).append(span(token))
    return Structures(
        tables=tuple(_table(whole, found.get("tr_open", [])) for whole in found.get("table_open", [])),
        fences=tuple(found.get("fence", [])),
        headings=tuple(found.get("heading_open", [])),
        list_items=tuple(found.get("list_item_open", [])),
    )


def _table(whole: Span, rows: list[Span]) -> Table:
    inside = [row for row in rows if whole.start <= row.start < whole.end]
    body = tuple(inside[1:])
    header_end = body[0].start if body else whole.end
    return Table(whole.start, whole.end, Span(whole.start, header_end), body)
