"""The relational tier in PostgreSQL: one bounded query for the neighbourhood of many passages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from hybridmem_plugins.engines.postgres.connection import Ask, Statement
from hybridmem_plugins.engines.postgres.rows import COLUMNS, MetRows
from hybridmem_plugins.engines.postgres.schema import key
from hybridmem_plugins.memory.names import SAME_SPELLING, closest, drawer
from hybridmem_plugins.memory.steps import (
    ALL_KINDS,
    MAX_DEFINERS,
    MAX_MENTIONS_BACKWARD,
    MAX_MENTIONS_SHARED,
    Columns,
    Link,
    NameInfo,
    StepKind,
    Steps,
    maximal,
)

# A name is looked at up to these numbers of passages and no further, however many say it.
_DEFINERS_SEEN = MAX_DEFINERS + 1
_MENTIONS_SEEN = MAX_MENTIONS_BACKWARD + 1
# Names of about the same length that are compared with a misspelt one.
_SPELLINGS = 5000
# Names within this share of a misspelt one's length can reach `SAME_SPELLING`.
_LENGTHS = (SAME_SPELLING / (200 - SAME_SPELLING), (200 - SAME_SPELLING) / SAME_SPELLING)


class Name:
    """What the tables say of a name, as far as a question may know it.

    Attributes:
        definers: Rows that define it, ascending, at most `_DEFINERS_SEEN`.
        titles: Their titles.
        mentioning: Rows that mention it, ascending, at most `_MENTIONS_SEEN`.
    """

    __slots__ = ("definers", "mentioning", "titles")

    def __init__(self, definers: list[int], titles: list[str | None], mentioning: list[int]) -> None:
        self.definers, self.titles, self.mentioning = definers, titles, mentioning

    def info(self) -> NameInfo:
        """Return the name as retrieval knows it."""
        if len(self.definers) > MAX_DEFINERS:
            return NameInfo((), len(self.definers), len(self.mentioning))
        return NameInfo(tuple(self.definers), len(set(self.titles)), len(self.mentioning))


class PostgresGraph:
    """Names and steps, for one question under one filter.

    Args:
        ask: Runs statements in one round trip.
        met: Passages that the question has met.
        allowed: The filter as SQL over `p`; None allows all.
    """

    def __init__(self, ask: Ask, met: MetRows, allowed: Statement | None) -> None:
        self._ask = ask
        self._met = met
        self._allowed = allowed
        self._known: dict[str, Name] = {}
        self._unknown: set[str] = set()

    def names(self, names: Collection[str], allowed: Any = None) -> dict[str, NameInfo]:
        """Return what is known of each of these names; see `RelationalTier`."""
        by_key = {name: key(name) for name in names}
        missing = [k for k in dict.fromkeys(by_key.values()) if k not in self._known and k not in self._unknown]
        if missing:
            given = Statement("SELECT DISTINCT name FROM unnest(%s::text[]) AS given(name)", [missing])
            self._learn(self._ask(self._about(given))[0])
            self._unknown.update(name for name in missing if name not in self._known)
        infos = {name: self._known[k].info() for name, k in by_key.items() if k in self._known}
        return {name: info for name, info in infos.items() if info.meanings or info.mentions}

    def similar(self, name: str, allowed: Any = None) -> str | None:
        """Return the defined name closest to a misspelt one."""
        return self.similar_names([name]).get(name)

    def similar_names(self, names: Sequence[str], allowed: Any = None) -> dict[str, str]:
        """Return, for misspelt names, the defined ones they most likely stand for, in one round trip."""
        if not names:
            return {}
        shortest, longest = ([int(len(name) * share) for name in names] for share in _LENGTHS)
        join, where = self._condition("d")
        near = Statement(
            "SELECT DISTINCT near.name FROM unnest(%s::text[], %s::integer[], %s::integer[]) "
            "AS given(drawer, shortest, longest) CROSS JOIN LATERAL (SELECT d.name FROM definitions d "
            f"{join} WHERE d.drawer = given.drawer AND length(d.name) BETWEEN shortest AND longest {where.sql} "
            "LIMIT %s) near",
            [[drawer(name) for name in names], shortest, [n + 1 for n in longest], *where.parameters, _SPELLINGS],
        )
        lines = self._ask(self._about(near))[0]
        self._learn(lines)
        drawers: dict[str, list[str]] = {}
        for candidate, *_ in lines:
            drawers.setdefault(drawer(candidate), []).append(candidate)
        found = {}
        for name in names:
            matches = closest(name, drawers.get(drawer(name), ()))
            best = next((match for match in matches if self._known[match].info().definers), None)
            if best is not None:
                found[name] = best
        return found

    def mentions_of(self, rows: Sequence[int], allowed: Any = None) -> dict[int, list[str]]:
        """Return the names that passages mention, in order of appearance."""
        join, where = self._condition("d")
        sql = (
            "SELECT m.row, m.name FROM mentions m WHERE m.row = ANY(%s::bigint[]) AND (m.kind <> 'title' "
            f"OR EXISTS (SELECT FROM definitions d {join} WHERE d.name = m.name {where.sql})) "
            "ORDER BY m.row, m.position, m.name"
        )
        found: dict[int, list[str]] = {row: [] for row in rows}
        for row, name in self._ask(Statement(sql, [list(rows), *where.parameters]))[0]:
            found[row].append(name)
        return found

    def relations(self, names: Sequence[str], allowed: Any = None) -> list[tuple[str, str, str, int]]:
        """Return the typed facts about names; see `KnowledgeGraph.relations`."""
        join, where = self._condition("f")
        sql = (
            f"SELECT f.subject, f.relation, f.object, min(f.row) FROM facts f {join} "
            f"WHERE (f.subject = ANY(%s::text[]) OR f.object = ANY(%s::text[])) {where.sql} GROUP BY 1, 2, 3"
        )
        given = list(names)
        return [tuple(line) for line in self._ask(Statement(sql, [given, given, *where.parameters]))[0]]

    def neighbourhood(self, rows: Sequence[int], kinds: Collection[StepKind] = ALL_KINDS, allowed: Any = None) -> Steps:
        """Return the steps that lead from many passages to others, in one round trip; see `RelationalTier`.

        Steps forward bring the passages that they lead to with them: few, and likely to be looked at next.
        """
        sources = list(dict.fromkeys(rows))
        statements = [
            Statement(
                "SELECT row, name, kind FROM mentions WHERE row = ANY(%s::bigint[]) "
                "UNION ALL (SELECT row, name, NULL FROM definitions WHERE row = ANY(%s::bigint[]) "
                "ORDER BY row, position)",
                [sources, sources],
            ),
            self._about(self._said_by(sources, kinds)),
        ]
        if set(kinds) == {"forward"}:
            statements.append(self._targets(sources))
        said, lines, *targets = self._ask(*statements)
        self._learn(lines)
        for found in targets:
            self._met.take(found)
        return self._steps(sources, said, kinds)

    def _steps(self, sources: Sequence[int], said: list[tuple[Any, ...]], kinds: Collection[StepKind]) -> Steps:
        mentioned: dict[int, list[str]] = {row: [] for row in sources}
        defined: dict[int, list[str]] = {row: [] for row in sources}
        for row, name, kind in said:
            if kind != "title" or self._known[name].definers:
                (mentioned if kind else defined)[row].append(name)
        walk = Columns()
        for row in sources:
            names = sorted(mentioned[row])
            if "forward" in kinds:
                for name in maximal([name for name in names if self._known[name].definers]):
                    info = self._known[name].info()
                    walk.add(row, info.definers, Link("forward", name, info.meanings, info.mentions))
            if "shared" in kinds:
                self._across(walk, row, names)
            if "backward" in kinds:
                for name in defined[row]:
                    info = self._known[name].info()
                    if info.mentions <= MAX_MENTIONS_BACKWARD:
                        link = Link("backward", name, info.meanings, info.mentions)
                        walk.add(row, self._known[name].mentioning, link)
        return walk.steps()

    def _across(self, walk: Columns, row: int, names: Sequence[str]) -> None:
        for name in names:
            info = self._known[name].info()
            if info.mentions <= MAX_MENTIONS_SHARED:
                link = Link("shared", name, info.meanings, info.mentions)
                walk.add(row, self._known[name].mentioning, link)

    def _learn(self, lines: list[tuple[Any, ...]]) -> None:
        for name, definers, titles, mentioning in lines:
            self._known[name] = Name(definers, titles, mentioning)

    def _about(self, given: Statement) -> Statement:
        """Return the statement that tells everything about some names, each in bounded time."""
        join_d, where_d = self._condition("d")
        join_m, where_m = self._condition("m")
        sql = (
            "SELECT given.name, coalesce(defined.rows, '{}'), coalesce(defined.titles, '{}'), "
            f"ARRAY(SELECT m.row FROM mentions m {join_m} WHERE m.name = given.name "
            # What was found only as a title is no name where no passage that is allowed has that title.
            f"AND (m.kind <> 'title' OR defined.rows IS NOT NULL) {where_m.sql} ORDER BY m.row LIMIT %s) "
            f"FROM ({given.sql}) given LEFT JOIN LATERAL ("
            "SELECT array_agg(one.row ORDER BY one.row) AS rows, array_agg(one.title ORDER BY one.row) AS titles FROM ("
            f"SELECT d.row, d.title FROM definitions d {join_d} WHERE d.name = given.name {where_d.sql} "
            "ORDER BY d.row LIMIT %s) one) defined ON true"
        )
        parameters = [
            *where_m.parameters, _MENTIONS_SEEN, *given.parameters, *where_d.parameters, _DEFINERS_SEEN,
        ]  # fmt: skip
        return Statement(sql, parameters)

    def _said_by(self, rows: list[int], kinds: Collection[StepKind]) -> Statement:
        parts = []
        if "forward" in kinds or "shared" in kinds:
            parts.append("SELECT name FROM mentions WHERE row = ANY(%s::bigint[])")
        if "backward" in kinds:
            parts.append("SELECT name FROM definitions WHERE row = ANY(%s::bigint[])")
        sql = " UNION ".join(parts) or "SELECT name FROM mentions WHERE row = ANY(%s::bigint[]) AND false"
        return Statement(f"SELECT DISTINCT name FROM ({sql}) said", [rows] * max(1, len(parts)))

    def _targets(self, rows: list[int]) -> Statement:
        """Return the statement that reads the passages which steps forward lead to."""
        join, where = self._condition("d")
        sql = (
            "WITH said AS (SELECT DISTINCT name FROM mentions WHERE row = ANY(%s::bigint[])), "
            "targets AS (SELECT DISTINCT unnest(few.rows) AS row FROM said CROSS JOIN LATERAL ("
            f"SELECT array_agg(one.row) AS rows FROM (SELECT d.row FROM definitions d {join} "
            f"WHERE d.name = said.name {where.sql} ORDER BY d.row LIMIT %s) one) few "
            "WHERE cardinality(few.rows) <= %s) "
            f"SELECT {COLUMNS} FROM targets JOIN passages p ON p.row = targets.row "
            "JOIN vectors v ON v.row = targets.row WHERE targets.row <> ALL(%s::bigint[])"
        )
        return Statement(sql, [rows, *where.parameters, _DEFINERS_SEEN, MAX_DEFINERS, list(self._met)])

    def _condition(self, table: str) -> tuple[str, Statement]:
        """Return how a table of rows is held to the filter: what to join, and what to ask."""
        if self._allowed is None:
            return "", Statement("")
        join = f"JOIN passages p ON p.row = {table}.row"
        return join, Statement(f"AND ({self._allowed.sql})", self._allowed.parameters)
