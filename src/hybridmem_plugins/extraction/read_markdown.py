"""Markdown to headings and blocks, with the markup of links kept for the extraction of entities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from textwrap import dedent
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import normalizeReference
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from hybridmem_plugins.extraction.chunks import Block, Heading, count_words
from hybridmem_plugins.extraction.read_html import html_parts

__all__ = ["markdown_parts"]

_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(\s*[\w-]+\s*[:=].*?\n)(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title\s*[:=]\s*(.+)$", re.MULTILINE | re.IGNORECASE)
_ANCHOR = re.compile(r"\s*\{[#.:][^}]*\}$")
_REFERENCE = re.compile(r"(?<!\[)\[([^\[\]]+)\](?:\[([^\[\]]*)\])?(?![\[(:\]])")
_CONTAINERS = {"bullet_list", "ordered_list", "list_item", "blockquote"}
_WHOLE = {"fence", "code_block", "table"}


def markdown_parts(text: str, max_words: int) -> tuple[str | None, list[Heading | Block]]:
    r"""Read Markdown (CommonMark and tables).

    Args:
        text: The content of a file; YAML or TOML front matter gives its title and is left out otherwise.
        max_words: Lists and quotations longer than this come as several blocks.

    Returns:
        The title (from the front matter, else the first heading of level 1, else None), and the parts in order.

    >>> markdown_parts("# Guide\n\nSee [notes][1].\n\n[1]: notes.md", 180)
    ('Guide', [Heading(level=1, text='Guide'), Block(text='See [notes](notes.md).', whole=False)])
    """
    title, text = _split_front_matter(text.replace("\r\n", "\n").replace("\r", "\n"))
    environment: dict[str, Any] = {}
    tree = SyntaxTreeNode(_parser().parse(text, environment))
    lines = text.split("\n")
    parts = list(_parts(tree, lines, max_words, environment.get("references", {})))
    if title is None:
        title = next((part.text for part in parts if isinstance(part, Heading) and part.level == 1), None)
    return title, parts


@cache
def _parser() -> MarkdownIt:
    # Blocks are kept as they are written; only headings are looked into, by `_plain`.
    return MarkdownIt("commonmark").enable("table").disable("inline")


def _split_front_matter(text: str) -> tuple[str | None, str]:
    found = _FRONT_MATTER.match(text)
    if found is None:
        return None, text
    title = _FRONT_TITLE.search(found[2])
    return (title[1].strip().strip("\"'") or None) if title else None, text[found.end() :]


def _parts(
    node: SyntaxTreeNode, lines: list[str], max_words: int, references: Mapping[str, Mapping[str, str]]
) -> Iterator[Heading | Block]:
    for child in node.children:
        if child.map is None:
            continue
        if child.type == "heading" and node.type == "root":
            heading = _without_anchor(_plain(child.children[0].content, references))
            if heading:
                yield Heading(int(child.tag[1]), heading)
            continue
        source = dedent("\n".join(lines[child.map[0] : child.map[1]])).strip("\n")
        if child.type == "html_block":
            yield from html_parts(source)[1]
        elif child.type in _CONTAINERS and child.children and count_words(source) > max_words:
            yield from _parts(child, lines, max_words, references)
        elif child.type != "hr" and source.strip():
            whole = any(inner.type in _WHOLE for inner in child.walk())
            yield Block(source if whole else _resolve(source, references), whole)


def _plain(heading: str, references: Mapping[str, Mapping[str, str]]) -> str:
    """Return the words of a heading without its markup."""
    tokens: list[Token] = []
    _parser().inline.parse(heading, _parser(), {"references": references}, tokens)
    words = (
        " " if token.type in {"softbreak", "hardbreak"} else token.content
        for token in tokens
        if token.type in {"text", "text_special", "code_inline", "image", "softbreak", "hardbreak"}
    )
    return " ".join("".join(words).split())


def _without_anchor(heading: str) -> str:
    """Leave out `{#anchor}` or `{.class}` at a heading's end."""
    if not heading.endswith("}"):
        return heading
    found = _ANCHOR.search(heading, heading.rfind("}", 0, -1) + 1)  # each `{` before would be followed to the end
    return heading[: found.start()] if found else heading


def _resolve(source: str, references: Mapping[str, Mapping[str, str]]) -> str:
    """Write reference links as inline ones, since their targets may end up in another passage."""
    if not references:
        return source

    def inline(match: re.Match[str]) -> str:
        target = references.get(normalizeReference(match[2] or match[1]))
        return f"[{match[1]}]({target['href']})" if target else match[0]

    return _REFERENCE.sub(inline, source)
