"""A memory's graph in a database that speaks Cypher: what is asked, in the dialects of those that people run.

    (:HybridPassage)-[:HYBRID_DEFINES|HYBRID_MENTIONS]->(:HybridName)
    (:HybridPassage)-[:HYBRID_STATES]->(:HybridFact)-[:HYBRID_ABOUT]->(:HybridName)

Ids start with the memory's, so that several memories may share a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from hybridmem_plugins.engines.graphs import Mentioned, PassageNode

T = TypeVar("T")
Query = Callable[[str, dict[str, Any]], Any]
Dialect = Literal["opencypher", "neo4j", "falkordb", "memgraph", "kuzu"]
"""`opencypher` for a database whose indexes on `id` are made elsewhere, or not needed."""

# Nodes or relations in one statement.
_CHUNK = 2000

_TABLES = (
    "NODE TABLE IF NOT EXISTS HybridPassage (id STRING, memory STRING, row INT64, key STRING, title STRING, "
    "PRIMARY KEY (id))",
    "NODE TABLE IF NOT EXISTS HybridName (id STRING, memory STRING, name STRING, PRIMARY KEY (id))",
    "NODE TABLE IF NOT EXISTS HybridFact (id STRING, memory STRING, row INT64, subject STRING, relation STRING, "
    "object STRING, PRIMARY KEY (id))",
    "REL TABLE IF NOT EXISTS HYBRID_MENTIONS (FROM HybridPassage TO HybridName, kind STRING, position INT64)",
    "REL TABLE IF NOT EXISTS HYBRID_DEFINES (FROM HybridPassage TO HybridName, position INT64)",
    "REL TABLE IF NOT EXISTS HYBRID_STATES (FROM HybridPassage TO HybridFact)",
    "REL TABLE IF NOT EXISTS HYBRID_ABOUT (FROM HybridFact TO HybridName)",
)
_LABELS = ("HybridPassage", "HybridName", "HybridFact")
_INDEX: Mapping[str, str] = {
    "neo4j": "CREATE INDEX {index} IF NOT EXISTS FOR (n:{label}) ON (n.id)",
    "falkordb": "CREATE INDEX FOR (n:{label}) ON (n.id)",
    "memgraph": "CREATE INDEX ON :{label}(id)",
}

# Kuzu and Ladybug find a node by its id at once only where a statement names one id; of many they look at all nodes.
_FEW = 16
_PARTS = 200

_PASSAGES = "MATCH (p:HybridPassage {id: id}) "
_NAMES = "MATCH (n:HybridName {id: id}) "
_SAID = (
    _PASSAGES + "MATCH (p)-[m:HYBRID_MENTIONS]->(n:HybridName) "
    "RETURN n.name AS name, [p.row] AS rows, m.kind AS kind, m.position AS position, 1 AS said"
)
_SAYS = "MATCH (q:HybridPassage)-[m:HYBRID_MENTIONS]->(n) "
# One list of numbers a name is the least to send; those that say it only as a title are below zero.
_SAYERS = "collect(CASE WHEN m.kind = 'title' THEN -q.row ELSE q.row END)"
_SAYER = "AS rows, '' AS kind, 0 AS position, 0 AS said"
# Dialects in which a part of a statement can stop early.
_BOUNDED = ("neo4j", "falkordb", "memgraph")


class CypherGraph:
    """A `GraphEngine` over a function that runs Cypher.

    Args:
        query: Takes a statement and its parameters, returns rows as dicts.
        dialect: How the database's Cypher differs.
        name: Tells the database, and the graph in it, from others.
    """

    def __init__(self, query: Query, dialect: Dialect, name: str) -> None:
        self.name = name
        self._query = query
        self._dialect = dialect

    def prepare(self) -> None:
        """Make tables or indexes; see `GraphEngine`."""
        if self._dialect == "kuzu":
            for table in _TABLES:
                self._query(f"CREATE {table}", {})
        elif self._dialect in _INDEX:
            for label in _LABELS:
                statement = _INDEX[self._dialect].format(label=label, index=f"{label.lower()}_id")
                with suppress(Exception):  # it is there; a database that is down says so at the next statement
                    self._query(statement, {})
        self._query("MATCH (p:HybridPassage) RETURN p.row AS row LIMIT 1", {})

    def clear(self, memory: str) -> None:
        """Forget a memory; see `GraphEngine`."""
        for label in _LABELS:
            self._query(f"MATCH (n:{label}) WHERE n.memory = $memory DETACH DELETE n", {"memory": memory})

    def count(self, memory: str) -> int:
        """Return the number of passages; see `GraphEngine`."""
        statement = "MATCH (p:HybridPassage) WHERE p.memory = $memory RETURN count(p) AS passages"
        return int(self._query(statement, {"memory": memory})[0]["passages"])

    def store(self, memory: str, passages: Sequence[PassageNode]) -> None:
        """Store passages; see `GraphEngine`."""
        self._each(
            "UNWIND $lines AS x CREATE (:HybridPassage "
            "{id: x.id, memory: $memory, row: x.row, key: x.key, title: x.title})",
            [{"id": _id(memory, p.row), "row": p.row, "key": p.id, "title": p.title or ""} for p in passages],
            memory=memory,
        )
        names = dict.fromkeys(name for p in passages for name in [*p.defines, *(said for said, _ in p.mentions)])
        self._merge_names(memory, names)
        self._join(
            memory, "HYBRID_DEFINES {position: x.position}",
            [(p.row, name, {"position": n}) for p in passages for n, name in enumerate(p.defines)],
        )  # fmt: skip
        self._join(
            memory, "HYBRID_MENTIONS {kind: x.kind, position: x.position}",
            [
                (p.row, name, {"kind": kind, "position": n})
                for p in passages
                for n, (name, kind) in enumerate(p.mentions)
            ],
        )  # fmt: skip
        self._state(memory, passages)

    def link(self, memory: str, pairs: Sequence[tuple[int, str]]) -> None:
        """Let passages mention names as titles; see `GraphEngine`."""
        self._merge_names(memory, dict.fromkeys(name for _, name in pairs))
        # Late ones come after those that a passage was stored with.
        self._each(
            "UNWIND $lines AS x MATCH (p:HybridPassage {id: x.passage}) MATCH (n:HybridName {id: x.name}) "
            "MERGE (p)-[m:HYBRID_MENTIONS]->(n) ON CREATE SET m.kind = 'title', m.position = 1000000",
            [{"passage": _id(memory, row), "name": _id(memory, name)} for row, name in pairs],
        )

    def forget(self, memory: str, rows: Sequence[int]) -> list[str]:
        """Delete passages and their facts; see `GraphEngine`."""
        ids = [_id(memory, row) for row in rows]
        said = "MATCH (p)-[:HYBRID_MENTIONS|HYBRID_DEFINES]->(n:HybridName) RETURN DISTINCT n.name AS name"
        names = dict.fromkeys(line["name"] for line in self._change(_PASSAGES + said, ids))
        self._change(_PASSAGES + "MATCH (p)-[:HYBRID_STATES]->(f:HybridFact) DETACH DELETE f", ids)
        self._change(_PASSAGES + "DETACH DELETE p", ids)
        return list(names)

    def prune(self, memory: str, names: Sequence[str], untitled: Sequence[str]) -> None:
        """Delete names that no passage has; see `GraphEngine`."""
        late = "MATCH (:HybridPassage)-[m:HYBRID_MENTIONS]->(n) WHERE m.kind = 'title' DELETE m"
        self._change(_NAMES + late, [_id(memory, name) for name in untitled])
        orphan = (
            "OPTIONAL MATCH (p:HybridPassage)-[:HYBRID_MENTIONS|HYBRID_DEFINES]->(n) "
            "WITH n, count(p) AS passages WHERE passages = 0 DETACH DELETE n"
        )
        self._change(_NAMES + orphan, [_id(memory, name) for name in names])

    def mentioning(
        self, memory: str, names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> list[Mentioned]:
        """Return who mentions some names; see `GraphEngine`."""
        ids = [_id(memory, name) for name in names]
        if self._dialect == "kuzu" and len(ids) > _FEW:  # most are no names at all
            known = self._query(f"UNWIND $ids AS id {_NAMES}RETURN n.id AS id", {"ids": ids})
            ids = [line["id"] for line in known]
        return _sayers_in(self._read([_NAMES + self._sayers(limit, only)], ids, only))

    def around(
        self, memory: str, rows: Sequence[int], names: Sequence[str], limit: int | None, only: Sequence[int] | None
    ) -> tuple[list[Mentioned], list[Mentioned]]:
        """Return what passages say, and who says the same, in one round trip; see `GraphEngine`.

        The other names are those that the passages define, which the database knows.
        """
        leading = "HYBRID_MENTIONS|HYBRID_DEFINES" if names else "HYBRID_MENTIONS"
        # Kuzu keeps the plan that it made first; with `WITH`, that looks at all relations.
        once = "" if self._dialect == "kuzu" else "WITH DISTINCT n "
        around = f"{_PASSAGES}MATCH (p)-[:{leading}]->(n:HybridName) {once}{self._sayers(limit, only)}"
        lines = self._read([_SAID, around], [_id(memory, row) for row in rows], only)
        said = [line for line in lines if line["said"]]
        # Where each passage was asked about for itself, what several say comes several times.
        others = {line["name"]: line for line in lines if not line["said"]}
        return _mentioned(said), _sayers_in(others.values())

    def said_by(self, memory: str, rows: Sequence[int]) -> list[Mentioned]:
        """Return what passages say; see `GraphEngine`."""
        return _mentioned(self._read([_SAID], [_id(memory, row) for row in rows], None))

    def facts(self, memory: str, names: Sequence[str] | None) -> list[tuple[str, str, str, int]]:
        """Return the facts about names; see `GraphEngine`."""
        columns = "RETURN DISTINCT f.subject AS subject, f.relation AS relation, f.object AS object, f.row AS row"
        if names is None:
            lines = self._query(f"MATCH (f:HybridFact) WHERE f.memory = $memory {columns}", {"memory": memory})
        else:
            about = f"{_NAMES}MATCH (f:HybridFact)-[:HYBRID_ABOUT]->(n) {columns}"
            lines = self._read([about], [_id(memory, name) for name in names], None)
        return [(line["subject"], line["relation"], line["object"], line["row"]) for line in lines or []]

    def _sayers(self, limit: int | None, only: Sequence[int] | None) -> str:
        """Return the end of a statement that reads, for names `n`, who says them."""
        says = _SAYS + ("" if only is None else "WHERE q.row IN $kept ")
        name = "n.name AS name"
        if limit is None:
            return f"{says}RETURN {name}, {_SAYERS} {_SAYER}"
        if self._dialect in _BOUNDED:
            one = f"CALL {{ WITH n {says}WITH q, m LIMIT {limit} RETURN {_SAYERS} AS found }} "
            return f"{one}RETURN {name}, found {_SAYER}"
        first = f"[1:{limit}]" if self._dialect == "kuzu" else f"[0..{limit}]"
        return f"{says}RETURN {name}, {_SAYERS}{first} {_SAYER}"

    def _read(
        self, statements: Sequence[str], ids: Sequence[str], only: Sequence[int] | None
    ) -> list[Mapping[str, Any]]:
        """Return the lines of statements about each `id` together, in one round trip (Kuzu: for 200 ids)."""
        if not ids:
            return []
        given = {} if only is None else {"kept": list(only)}
        if self._dialect != "kuzu":
            union = " UNION ALL ".join(f"UNWIND $ids AS id {statement}" for statement in statements)
            return list(self._query(union, {"ids": list(ids), **given}) or [])
        lines: list[Mapping[str, Any]] = []
        for part in _chunks(ids, _PARTS):
            union = " UNION ALL ".join(
                statement.replace("{id: id}", f"{{id: $id{n}}}") for statement in statements for n in range(len(part))
            )
            lines += self._query(union, {f"id{n}": one for n, one in enumerate(part)} | given)
        return lines

    def _change(self, statement: str, ids: Sequence[str]) -> list[Mapping[str, Any]]:
        """Run a statement that changes something about each `id`; return the lines."""
        lines: list[Mapping[str, Any]] = []
        if self._dialect == "kuzu" and len(ids) <= _FEW:
            for one in ids:
                lines += self._query(statement.replace("{id: id}", "{id: $id}"), {"id": one}) or []
            return lines
        for part in _chunks(ids):
            lines += self._query(f"UNWIND $ids AS id {statement}", {"ids": part}) or []
        return lines

    def _merge_names(self, memory: str, names: Mapping[str, None]) -> None:
        self._each(
            "UNWIND $lines AS x MERGE (n:HybridName {id: x.id}) ON CREATE SET n.memory = $memory, n.name = x.name",
            [{"id": _id(memory, name), "name": name} for name in names],
            memory=memory,
        )

    def _join(self, memory: str, relation: str, pairs: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
        self._each(
            "UNWIND $lines AS x MATCH (p:HybridPassage {id: x.passage}) MATCH (n:HybridName {id: x.name}) "
            f"CREATE (p)-[:{relation}]->(n)",
            [{"passage": _id(memory, row), "name": _id(memory, name), **more} for row, name, more in pairs],
        )

    def _state(self, memory: str, passages: Sequence[PassageNode]) -> None:
        facts = [(p.row, n, fact) for p in passages for n, fact in enumerate(p.facts)]
        lines = [
            {
                "id": _id(memory, f"{row} {n}"), "row": row, "subject": fact.subject, "relation": fact.relation,
                "object": fact.object, "passage": _id(memory, row),
            }
            for row, n, fact in facts
        ]  # fmt: skip
        self._each(
            "UNWIND $lines AS x MATCH (p:HybridPassage {id: x.passage}) CREATE (p)-[:HYBRID_STATES]->(:HybridFact "
            "{id: x.id, memory: $memory, row: x.row, subject: x.subject, relation: x.relation, object: x.object})",
            lines,
            memory=memory,
        )
        self._each(
            "UNWIND $lines AS x MATCH (f:HybridFact {id: x.id}) MATCH (n:HybridName {id: x.name}) "
            "CREATE (f)-[:HYBRID_ABOUT]->(n)",
            [
                {"id": _id(memory, f"{row} {n}"), "name": _id(memory, name)}
                for row, n, fact in facts
                for name in dict.fromkeys((fact.subject, fact.object))
            ],
        )

    def _each(self, statement: str, lines: Sequence[dict[str, Any]], **parameters: Any) -> None:
        for part in _chunks(lines):
            self._query(statement, {"lines": part, **parameters})


def _id(memory: str, what: object) -> str:
    return f"{memory[:16]} {what}"


def _mentioned(lines: Iterable[Mapping[str, Any]]) -> list[Mentioned]:
    ordered = sorted(lines, key=lambda line: (line["rows"][0], line["position"]))
    return [Mentioned(line["name"], int(line["rows"][0]), line["kind"]) for line in ordered]


def _sayers_in(lines: Iterable[Mapping[str, Any]]) -> list[Mentioned]:
    return [Mentioned(line["name"], abs(row), "title" if row < 0 else "") for line in lines for row in line["rows"]]


def _chunks(items: Sequence[T], size: int = _CHUNK) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
