"""HTML to headings and blocks, with links written as in Markdown."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

from hybridmem_plugins.extraction.chunks import Block, Heading

__all__ = ["html_parts"]

_DROPPED = {"script", "style", "template", "noscript", "svg", "nav", "select", "button", "iframe", "object"}
_BLOCKS = {
    *("address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog"),
    *("div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "head", "header", "hr", "html"),
    *("legend", "li", "main", "ol", "option", "p", "pre", "section", "summary", "table", "title", "ul"),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def html_parts(text: str) -> tuple[str | None, list[Heading | Block]]:
    """Read HTML.

    Scripts, styles, graphics, form controls and navigation bars are left out: a bar that stands on every page would
    link each page to all others. Code comes as a fenced block, a table as lines of cells.

    Args:
        text: A page or a fragment; unclosed and misplaced tags are tolerated.

    Returns:
        The title (of the page, else of its first heading of level 1, else None), and the parts in order.

    >>> html_parts("<title>Notes</title><h1>Flash</h1><p>See <a href='intel.html'>Intel</a>.<script>x()</script>")
    ('Notes', [Heading(level=1, text='Flash'), Block(text='See [Intel](intel.html).', whole=False)])
    """
    reader = _Reader()
    # Beyond the last `>` no markup ends, and the parser would look for its end from each `<` there.
    closed = text.rfind(">") + 1
    reader.feed(text[:closed])
    reader.close()
    reader.handle_data(unescape(text[closed:]))
    reader.flush()
    title = reader.title or next((p.text for p in reader.parts if isinstance(p, Heading) and p.level == 1), None)
    return title, reader.parts


class _Reader(HTMLParser):
    """Collects text until a block ends, then adds it to the parts."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: str | None = None
        self.parts: list[Heading | Block] = []
        self._buffer: list[str] = []
        self._row = 0  # where the row of a table begins, or the first words in it, so that each is looked at once
        self._heading = 0
        self._in_title = False
        self._tables = 0
        self._pre = 0
        self._link: tuple[str, int] | None = None
        self._dropping: str | None = None
        self._dropped_depth = 0
        self._unclosed = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._dropping and tag in {"main", "article"}:
            self._dropping = None  # an unclosed navigation bar must not swallow the page
        if self._dropping:
            self._dropped_depth += tag == self._dropping
        elif tag in _DROPPED:
            self._dropping, self._dropped_depth = tag, 1
        elif tag in _HEADINGS:
            self.flush()
            self._heading, self._pre = _HEADINGS[tag], 0
        elif tag in {"td", "th"}:
            self._end_link()
            count = len(self._buffer)
            self._row = next((index for index in range(self._row, count) if self._buffer[index].strip()), count)
            self._buffer.append(" | " if self._row < count else "")
        elif tag == "tr":
            self._end_link()
            self._buffer.append("\n")
            self._row = len(self._buffer)
        elif tag == "a":
            self._end_link()
            self._link = (dict(attrs).get("href") or "", len(self._buffer))
        elif tag in _BLOCKS:
            self._start_block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _DROPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._dropping:
            self._dropped_depth -= tag == self._dropping
            if self._dropped_depth <= 0:
                self._dropping = None
        elif tag == "a":
            self._end_link()
        elif tag == "table":
            self._tables = max(0, self._tables - 1)
            if not self._tables:
                self.flush(whole=True)
        elif tag == "pre":
            self.flush(whole=True)
            self._pre = 0
        elif tag in _HEADINGS or tag == "title":
            self.flush()
        elif tag in _BLOCKS and tag not in {"br", "hr"}:
            self._break()

    def handle_data(self, data: str) -> None:
        if not self._dropping:
            self._buffer.append(data if self._pre else re.sub(r"\s+", " ", data))

    def parse_marked_section(self, i: int, report: bool = True) -> int:
        """Pass over `<![...>`; the standard library raises AssertionError at keywords that it does not know."""
        return self.parse_bogus_comment(i, report)

    def parse_comment(self, i: int, report: bool = True) -> int:
        """Look for a comment's end, but once only where there is none: after a later one there is none either."""
        end = -1 if self._unclosed else super().parse_comment(i, report)
        self._unclosed = end < 0
        return end

    def flush(self, *, whole: bool = False) -> None:
        """End the current block, heading or title."""
        # A link around whole blocks (a card) becomes the link of the first block with words in it.
        waiting = self._link if self._link and not "".join(self._buffer[self._link[1] :]).strip() else None
        self._end_link()
        text = "".join(self._buffer)
        self._buffer, self._row = [], 0
        if self._pre:
            text = text.strip("\n")
            ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
            text = f"{ticks}\n{text}\n{ticks}" if text.strip() else ""
        else:
            text = "\n".join(line for line in (" ".join(line.split()) for line in text.split("\n")) if line.strip(" |"))
        if self._in_title:
            self.title = self.title or " ".join(text.split()) or None
        elif self._heading and text:
            self.parts.append(Heading(self._heading, " ".join(text.split())))
        elif text == "-":
            self._buffer = ["- "]  # the marker of a list item whose text stands in a paragraph of its own
        elif text:
            self.parts.append(Block(text, whole or bool(self._pre)))
        self._heading, self._in_title = 0, False
        self._link = (waiting[0], len(self._buffer)) if waiting else None

    def _start_block(self, tag: str) -> None:
        if tag == "br":
            self._buffer.append("\n" if self._pre or not self._heading else " ")
            return
        if not (tag == "table" and self._tables):
            self._break()
        self._tables += tag == "table"
        self._in_title = tag == "title" and self.title is None
        if tag == "pre" and not self._tables:
            self._pre = 1
        elif tag == "li" and not self._tables and not self._buffer:
            self._buffer.append("- ")
            self._link = (self._link[0], 1) if self._link else None

    def _break(self) -> None:
        """End a paragraph; in the cell of a table only a space."""
        if self._tables and not self._heading:
            self._buffer.append(" ")
        elif not self._pre:
            self.flush()

    def _end_link(self) -> None:
        if self._link is None:
            return
        href, start = self._link
        self._link = None
        words = " ".join("".join(self._buffer[start:]).split())
        if not words or self._heading or self._in_title or self._pre or re.match(r"(#|javascript:|data:|$)", href):
            return
        raw = "".join(self._buffer[start:])
        for char in " ()":  # these would end the target of a Markdown link
            href = href.replace(char, f"%{ord(char):02X}")
        label = words.replace("[", "").replace("]", "")
        self._buffer[start:] = [raw[: len(raw) - len(raw.lstrip())], f"[{label}]({href})", " " * raw.endswith(" ")]
