"""Noise of parsers: broken Markdown, lost tables, page furniture, web boilerplate."""

from __future__ import annotations

import json
import random
import re

from hybridmem_plugins.augmentation.edits import Change
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.operators.markdown import Table, structures, tables
from hybridmem_plugins.augmentation.operators.registry import insertion, operator, pick

_HEADING_MARK = re.compile(r" {0,3}#{1,6} +")
_LIST_MARK = re.compile(r"[ \t]*(?:[-+*]|\d+[.)])[ \t]+")


@operator("format", unit="table rows", typical=0.3)
def broken_tables(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Rows of a Markdown table lose a pipe or gain one, so that cells join or shift a column."""
    rows = [row for table in tables(text) for row in table.rows if text.count("|", *row) > 2]
    changes = []
    for row in pick(rows, severity, rng):
        pipes = [at for at in range(row.start, row.end) if text[at] == "|"]
        at = rng.choice(pipes[1:-1])
        changes.append(Change(at, at + 1, rng.choice(["", "| |"])))
    return changes


@operator("format", unit="tables", typical=1.0)
def flattened_tables(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A table loses its pipes: cells run on, separated by spaces alone."""
    return [Change(table.start, table.end, _flat(text, table)) for table in pick(tables(text), severity, rng)]


def _flat(text: str, table: Table) -> str:
    lines = text[table.start : table.end].splitlines()
    cells = [" ".join(line.replace("|", " ").split()) for line in [lines[0], *lines[2:]]]
    return "\n".join(filter(None, cells)) + ("\n" if text[table.end - 1] == "\n" else "")


@operator("format", unit="fenced code blocks", typical=1.0)
def unclosed_fences(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A code block's closing fence is missing, so that the rest of the chunk reads as code."""
    closings = []
    for fence in structures(text).fences if "```" in text or "~~~" in text else ():
        last = re.search(r"\n[ \t]*(?:`{3,}|~{3,})[ \t]*\n?\Z", text[fence.start : fence.end])
        if last:
            closings.append(Change(fence.start + last.start(), fence.start + last.end(), "\n"))
    return list(pick(closings, severity, rng))


@operator("format", unit="headings", typical=0.5)
def broken_headings(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Headings lose their mark or the space after it, so that they read as text."""
    headings = structures(text).headings if "#" in text else ()
    marks = [_HEADING_MARK.match(text, span.start) for span in headings]
    return [
        Change(*mark.span(), rng.choice(["", mark[0].rstrip()]))
        for mark in pick(list(filter(None, marks)), severity, rng)
    ]


@operator("format", unit="list items", typical=0.5)
def broken_lists(text: str, severity: float, rng: random.Random) -> list[Change]:
    """List items lose their bullet or number and run on in the line before."""
    starts = sorted(span.start for span in structures(text).list_items)
    marks = [_LIST_MARK.match(text, start) for start in starts]
    changes = []
    for mark in pick([mark for mark in marks if mark], severity, rng):
        joined = mark.start() > 0 and text[mark.start() - 1] == "\n" and text[mark.start() - 2 : mark.start()] != "\n\n"
        changes.append(Change(mark.start() - joined, mark.end(), " " if joined else ""))
    return changes


_LINK = re.compile(r"\[[^\]\n]+\]\([^()\s]+\)")
_INLINE_MARK = re.compile(r"(\*\*|__|\*)(?=\S)[^*_\n]+?(?<=\S)\1")


@operator("format", unit="links", typical=0.5)
def broken_links(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Links lose a bracket or their target."""
    changes = []
    for link in pick(_outside_fences(text, _LINK), severity, rng):
        middle = link.start() + link[0].index("](")
        cuts = [Change(middle, middle + 1, ""), Change(link.end() - 1, link.end(), ""), Change(middle, link.end(), "]")]
        changes.append(rng.choice(cuts))
    return changes


@operator("format", unit="emphasised runs", typical=0.5)
def broken_emphasis(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Bold and italic runs lose one of their two marks."""
    return [
        Change(run.end() - len(run[1]), run.end(), "") if rng.random() < 0.5 else Change(*run.span(1), "")
        for run in pick(_outside_fences(text, _INLINE_MARK), severity, rng)
    ]


def _outside_fences(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    found = list(pattern.finditer(text)) if "](" in text or "*" in text or "_" in text else []
    fences = structures(text).fences if found else ()
    return [match for match in found if not any(fence.start <= match.start() < fence.end for fence in fences)]


@operator("format", unit="sentences", typical=0.15)
def heading_spam(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Sentences and lines are taken for headings, as parsers do that judge by font size."""
    inside = [(table.start, table.end) for table in tables(text)]
    sentences = [
        found for found in SENTENCE.finditer(text)
        if text[found.start()] != "#" and not any(start <= found.start() < end for start, end in inside)
    ]  # fmt: skip
    return [
        Change(
            *found.span(),
            ("" if _begins_line(text, found.start()) else "\n") + f"# {found[0]}" + _line_end(text, found),
        )
        for found in pick(sentences, severity, rng)
    ]


def _begins_line(text: str, position: int) -> bool:
    return position == 0 or text[position - 1] == "\n"


def _line_end(text: str, found: re.Match[str]) -> str:
    return "" if found.end() >= len(text) or text[found.end()] == "\n" else "\n"


_BOILERPLATE = (
    "We use cookies to improve your experience. Accept all | Manage settings",
    '<div class="nav"><a href="/">Home</a> &gt; <a href="/help">Help</a></div>',
    "Skip to main content",
    "Sign in | Register | Subscribe to our newsletter",
    '<span class="share">Share on Facebook Tweet Print</span>',
    "<br/><br/>",
    "Read more »",
)


@operator("format", unit="sentence ends", typical=0.15)
def html_boilerplate(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Cookie bars, navigation and tags of the web page stand between the sentences."""
    ends = [found.end() for found in SENTENCE.finditer(text)]
    return [insertion(end, f"\n{rng.choice(_BOILERPLATE)}\n") for end in pick(ends, severity, rng)]


@operator("format", unit="sentence ends", typical=0.15)
def page_furniture(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Page numbers, running heads and footers of the printed page stand between the sentences."""
    ends = [found.end() for found in SENTENCE.finditer(text)]
    return [insertion(end, f"\n{_furniture(rng)}\n") for end in pick(ends, severity, rng)]


def _furniture(rng: random.Random) -> str:
    page, year = rng.randint(2, 90), rng.randint(1998, 2024)
    return rng.choice([f"Page {page} of {page + rng.randint(1, 60)}", f"- {page} -", f"© {year} All rights reserved.",
                       f"CONFIDENTIAL – DRAFT {year}", f"www.example.com   {page}"])  # fmt: skip


_LATEX = re.compile(r"\\[A-Za-z]+|[$^{}]|(?<=\w)_(?=[\w{])")
_LATEX_HINT = re.compile(r"\\[A-Za-z]+\b|\$[^$\n]+\$")


@operator("format", unit="LaTeX marks", typical=0.5)
def latex_loss(text: str, severity: float, rng: random.Random) -> list[Change]:
    """Formulas lose commands, braces, dollars, raised and lowered marks."""
    maybe = "$" in text or "\\" in text
    sites = _LATEX.finditer(text) if maybe and _LATEX_HINT.search(text) else ()
    return [Change(*mark.span(), "") for mark in pick(sites, severity, rng)]


@operator("format", unit="JSON marks", typical=0.1)
def damaged_json(text: str, severity: float, rng: random.Random) -> list[Change]:
    """A JSON text loses braces, quotes, commas or colons, so that it no longer parses."""
    sites = re.finditer(r'[{}\[\]",:]', text) if is_json(text) else ()
    return [Change(*mark.span(), "") for mark in pick(sites, severity, rng)]


def is_json(text: str) -> bool:
    """Tell whether the text is a JSON object or array."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
