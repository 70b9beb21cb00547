"""How noisy a passage already is: one unsupervised estimate for each operator whose traces can be seen.

Typos, OCR confusions and wrong (not missing) metadata are not among them: they cannot be told without a dictionary or
the truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise

from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.operators.formats import headable, is_json, looks_like_row
from hybridmem_plugins.augmentation.operators.markdown import tables
from hybridmem_plugins.augmentation.operators.metadata import DESCRIBING
from hybridmem_plugins.passage import Passage


def detect(passage: Passage) -> dict[str, float]:
    r"""Estimate the severity of each operator that left a trace in a passage, in (0, 1].

    >>> detect(Passage("A no-break\u00a0space is here, and others.", "Spaces"))
    {'nbsp': 0.1667}
    """
    found = {name: round(min(1.0, detector(passage.text)), 4) for name, detector in DETECTED_TEXT.items()}
    found["missing_metadata"] = 0.0 if passage.title else 0.5
    described = [key for key in DESCRIBING if key in passage.metadata]
    nulls = sum(passage.metadata[key] is None for key in described)
    found["null_metadata"] = nulls / len(described) if described else 0.0
    return {name: severity for name, severity in found.items() if severity > 0}


def _share(found: int, left: int) -> float:
    return found / (found + left) if found else 0.0


def _counted(trace: str, unit: str) -> Callable[[str], float]:
    """Make a detector of traces against units that are still whole."""
    traces, units = re.compile(trace), re.compile(unit)

    def detector(text: str) -> float:
        found = sum(1 for _ in traces.finditer(text))
        return _share(found, sum(1 for _ in units.finditer(text))) if found else 0.0

    return detector


def _per_sentence(trace: str, flags: int = 0) -> Callable[[str], float]:
    traces = re.compile(trace, flags)

    def detector(text: str) -> float:
        found = sum(1 for _ in traces.finditer(text))
        return found / max(1, sum(1 for _ in SENTENCE.finditer(text)) - found) if found else 0.0

    return detector


def _headings(text: str) -> float:
    found = len(re.findall(r"^ {0,3}#{1,6} ", text, re.MULTILINE)) if "#" in text else 0
    return found / max(found, len(headable(text)) + found) if found else 0.0


def _flattened(text: str) -> float:
    blocks, run = 0, 0
    for line in [*text.replace("\u00a0", " ").split("\n"), ""]:
        if looks_like_row(line):
            run += 1
            continue
        blocks += run >= 2
        run = 0
    return _share(blocks, len(tables(text)) if blocks else 0)


def _ragged(text: str) -> float:
    bad = rows = 0
    for table in tables(text):
        columns = text.count("|", *table.header) // max(1, text.count("\n", *table.header))
        rows += len(table.rows)
        bad += sum(text.count("|", *row) != columns for row in table.rows)
    return bad / rows if rows else 0.0


def _headless(text: str) -> float:
    lines = [line.startswith("|") for line in text.split("\n")] if "|" in text else []
    return 1.0 if sum(lines) >= 2 and not re.search(r"^\|[ :|-]+\|?\s*$", text, re.MULTILINE) else 0.0


def _starts_inside(text: str) -> float:
    first = text.lstrip()[:1]
    return OPERATORS["truncate_head"].typical if first.islower() or first in ",;:)" else 0.0


def _ends_inside(text: str) -> float:
    words = text.rstrip().rpartition("\n")[2].split()
    # A last line of a few words, or one that ends in a figure, is a title or a table's row.
    inside = len(words) > 5 and words[-1][-1].isalpha()
    return OPERATORS["cut_mid_word"].typical if inside else 0.0


_INVISIBLE = re.compile("[\u200b-\u200d\u00ad]")


def _invisible(text: str) -> float:
    found = len(_INVISIBLE.findall(text))
    return found / max(found, len(re.findall(r"[^\W\d_]{4,}", _INVISIBLE.sub("", text)))) if found else 0.0


def _repeats(text: str) -> float:
    sentences = [found[0] for found in SENTENCE.finditer(text)]
    again = sum(first == second and len(first) > 15 for first, second in pairwise(sentences))
    return _share(again, max(0, len(sentences) - 2 * again))


def _damaged_json(text: str) -> float:
    start = text.lstrip()[:1]
    like = start and start in '{["' and text.count('"') >= 4 and ":" in text and ("}" in text or "]" in text)
    return OPERATORS["damaged_json"].typical if like and not is_json(text) else 0.0


DETECTED_TEXT: Mapping[str, Callable[[str], float]] = {
    "nbsp": lambda text: _share(text.count("\u00a0"), text.count(" ")),
    "zero_width": _invisible,
    "mojibake": _counted("(?:[ÂÃÅ][\u0080-\u00bf]|â[€\u0080-\u00ff][\u0080-\uffff]?)", "[^\x00-\x7f]|['\"]"),
    "html_entities": _counted(r"&(?:[a-z]{2,8}|#\d{2,5});", "[<>\"'\u00a0-\u00ff\u2013-\u2026\u20ac]"),
    "ligatures": _counted("[\ufb00-\ufb04]", "ff[il]?|f[il]"),
    "line_break_hyphens": _counted(r"[^\W\d_]-\n[^\W\d_]", r"[^\W\d_]{7,}"),
    "lost_case": lambda text: 1.0 if len(text) > 60 and text == text.lower() != text.upper() else 0.0,
    "replacement_characters": _counted("\ufffd", "[^\x00-\x7f\ufffd]|['\"]"),
    "truncate_head": _starts_inside,
    "cut_mid_word": _ends_inside,
    "token_limit": lambda text: 0.25 if text.rstrip().endswith(("…", "...")) else 0.0,
    "overlap_repeat": _repeats,
    "heading_spam": _headings,
    "flattened_tables": _flattened,
    "broken_tables": _ragged,
    "lost_table_header": _headless,
    "unclosed_fences": lambda text: float(len(re.findall(r"^(?:```|~~~)", text, re.MULTILINE)) % 2),
    "html_boilerplate": _per_sentence(
        r"<(?:div|span|br|nav|a|p|ul|li)\b[^>]*>|accept all|cookies? (?:policy|settings|to improve)"
        r"|skip to (?:main )?content|subscribe to our|sign in \||share on",
        re.IGNORECASE,
    ),
    "page_furniture": _per_sentence(
        r"^\s*(?:page \d+(?: of \d+)?|[-–] \d+ [-–]|©.*|confidential\b.*|www\.\S+\s+\d+)\s*$",
        re.IGNORECASE | re.MULTILINE,
    ),
    "damaged_json": _damaged_json,
    "planted_instruction": _per_sentence(
        r"(?:ignore|disregard|forget) (?:all |the )?(?:previous|other|earlier|question)|\[INST\]|^\s*system:",
        re.IGNORECASE | re.MULTILINE,
    ),
}  # fmt: skip
