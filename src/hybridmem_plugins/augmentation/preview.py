"""Clean against noisy, side by side, with every edit marked by its operator."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.marks import Piece, marked
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = Mapping[str, Any]
COLOURS = {
    "context": "#7c3aed", "chunk": "#b45309", "characters": "#0369a1", "format": "#15803d", "metadata": "#6b7280",
    "adversarial": "#b91c1c",
}  # fmt: skip


def _visible(text: str) -> str:
    """Show what would not be seen."""
    shown = {"\u00a0": "⍽", "\u200b": "▯", "\u200d": "▯", "\u00ad": "▯"}
    return "".join(shown.get(character, character) for character in text)


def terminal(rows: Iterable[Row], lookup: Callable[[str], Passage]) -> Iterable[RenderableType]:
    """Make one table for each row: clean passages to the left, noisy ones to the right."""
    from rich.table import Table
    from rich.text import Text

    for row in rows:
        table = Table(title=Text(f"{row['id']}: {row['question']}"), show_lines=True, expand=True)
        table.add_column("clean", ratio=1)
        table.add_column("noisy", ratio=1)
        clean = {passage["id"]: passage["text"] for passage in row["clean"]}
        for passage, pieces in zip(row["passages"], marked(row, lookup), strict=True):
            noisy = Text(f"[{passage['role']}] {passage['title'] or ''}\n", style="bold")
            for piece in pieces:
                colour = COLOURS[OPERATORS[piece.operator].level] if piece.operator else ""
                shown = piece.text or ("✂" if piece.removed else "")
                noisy.append(_visible(shown), style=f"not bold {colour} reverse" if colour else "not bold")
            table.add_row(Text(clean.get(passage["id"].partition("#")[0], "")), noisy)
        table.add_row(Text("target"), Text(row["completion"]))
        table.add_row(Text("operators"), Text(", ".join(row["labels"]["operators"])))
        yield table


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1f2937;background:#fff}
section{border-top:2px solid #d1d5db;margin-top:2rem;padding-top:1rem}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1rem;margin:.7rem 0}
.text{white-space:pre-wrap;overflow-wrap:anywhere;background:#f9fafb}
.text,.target{border:1px solid #e5e7eb;border-radius:6px;padding:.7rem}
.role{font-size:.85rem;color:#4b5563}
.target{background:#ecfdf5}
mark{color:#fff;border-radius:3px;padding:0 2px}mark[title]{cursor:help}
@media(max-width:50rem){.pair{grid-template-columns:1fr}}
"""


def page(rows: Iterable[Row], lookup: Callable[[str], Passage]) -> str:
    """Make an HTML page: rows side by side, edits coloured by level, with operator and former text on hover."""
    colours = "".join(f"mark.{level}{{background:{colour}}}" for level, colour in COLOURS.items())
    legend = " ".join(f'<mark class="{level}">{level}</mark>' for level in COLOURS)
    body = "".join(_section(row, lookup) for row in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Noise preview</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}{colours}</style></head><body>'
        f"<h1>Clean against noisy</h1><p>Edits by level: {legend}. Hover over an edit to see its operator and what "
        f"stood there.</p>{body}</body></html>"
    )


def _section(row: Row, lookup: Callable[[str], Passage]) -> str:
    clean = {passage["id"]: passage["text"] for passage in row["clean"]}
    pairs = [
        f'<div class="pair">{_column("clean", html.escape(_source(passage, clean, lookup)))}'
        f"{_column(_heading(passage), ''.join(map(piece_html, pieces)))}</div>"
        for passage, pieces in zip(row["passages"], marked(row, lookup), strict=True)
    ]
    operators = ", ".join(row["labels"]["operators"]) or "none"
    return (
        f"<section><h2>{html.escape(row['question'])}</h2><p class=role>{html.escape(row['id'])} · "
        f"{row['labels']['kind']} · operators: {operators}</p>{''.join(pairs) or '<p>(nothing retrieved)</p>'}"
        f'<p class="target"><b>Target:</b> {html.escape(row["completion"])}</p></section>'
    )


def _column(heading: str, body: str) -> str:
    return f'<div><div class="role">{heading}</div><div class="text">{body}</div></div>'


def _heading(passage: Mapping[str, Any]) -> str:
    metadata = html.escape(str(passage["metadata"] or ""))
    return f"noisy · {html.escape(passage['role'])} · <b>{html.escape(passage['title'] or 'untitled')}</b> {metadata}"


def _source(passage: Mapping[str, Any], clean: Mapping[str, str], lookup: Callable[[str], Passage]) -> str:
    name = str(passage["id"]).partition("#copy")[0]
    try:
        return clean.get(name) or lookup(name).text
    except KeyError:
        return ""


def piece_html(piece: Piece) -> str:
    """Write a piece as HTML, marked where an operator wrote it; its own text is shown as text."""
    if piece.operator is None:
        return html.escape(piece.text)
    level = OPERATORS[piece.operator].level
    hint = html.escape(
        f"{piece.operator}: was “{piece.removed[:200]}”" if piece.removed else piece.operator, quote=True
    )
    return f'<mark class="{level}" title="{hint}">{html.escape(_visible(piece.text)) or "✂"}</mark>'
