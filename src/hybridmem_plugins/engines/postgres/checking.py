"""Whether the tables of a memory agree with each other."""

from __future__ import annotations

from hybridmem_plugins.engines.postgres.connection import Ask, Statement
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.caches import full_text

_STRAY = "SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT FROM passages p WHERE p.row = t.row)"
# What must count zero.
_COUNTS = {
    **{f"{table} of passages that are not stored": _STRAY.format(table=table)
       for table in ("vectors", "postings", "definitions", "mentions", "facts")},
    "passages without a vector":
        "SELECT count(*) FROM passages p WHERE NOT EXISTS (SELECT FROM vectors v WHERE v.row = p.row)",
    "terms counted wrongly":
        "SELECT count(*) FROM (SELECT term, count(*) AS n FROM postings GROUP BY term) o "
        "FULL JOIN terms t USING (term) WHERE o.n IS DISTINCT FROM t.passages",
    "title mentions of names that nothing defines":
        "SELECT count(*) FROM mentions m WHERE m.kind = 'title' "
        "AND NOT EXISTS (SELECT FROM definitions d WHERE d.name = m.name)",
    "passages that define and mention one name":
        "SELECT count(*) FROM mentions m JOIN definitions d USING (name, row)",
    "totals counted wrongly":
        "SELECT count(*) FROM state WHERE passages <> (SELECT count(*) FROM passages) "
        "OR tokens <> (SELECT coalesce(sum(frequency), 0) FROM postings) "
        "OR last_row < (SELECT coalesce(max(row), 0) FROM passages)",
}  # fmt: skip
_BATCH = 1000


def problems_of(ask: Ask) -> list[str]:
    """Return one sentence for each thing that is wrong.

    Args:
        ask: Runs statements in a transaction that sees one state.
    """
    counts = ask(*(Statement(sql) for sql in _COUNTS.values()))
    problems = [f"{found[0][0]:,} {what}" for what, found in zip(_COUNTS, counts, strict=True) if found[0][0]]
    last = 0
    while lines := ask(_next(last))[0]:
        last = lines[-1][0]
        problems += [problem for line in lines if (problem := _problem(*line)) is not None]
    return problems


def _next(last: int) -> Statement:
    sql = (
        "SELECT p.row, p.id, p.title, p.text, p.extraction, p.words, p.metadata::jsonb = p.fields "
        "FROM passages p WHERE p.row > %s ORDER BY p.row LIMIT %s"
    )
    return Statement(sql, [last, _BATCH])


def _problem(
    row: int, identity: str, title: str | None, text: str, extraction: str, said: str, same: bool
) -> str | None:
    if not same:
        return f"passage {identity!r} (row {row}): the metadata that filters see differs from its own"
    if said.split() != words(full_text(title, text)):
        return f"passage {identity!r} (row {row}): its words differ from its text"
    try:
        Extraction.from_json(extraction)
    except (ValueError, TypeError):
        return f"passage {identity!r} (row {row}): its extraction cannot be read"
    return None
