"""Changes of a memory in PostgreSQL: everything that a passage brings comes and goes in one transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.engines.postgres.connection import Session, Statement
from hybridmem_plugins.engines.postgres.schema import NAMES, key
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.memory.caches import Batch
from hybridmem_plugins.memory.names import LONGEST_NAME, drawer, names_in
from hybridmem_plugins.memory.snapshot import NewRecord, Record
from hybridmem_plugins.memory.titles import forms

# Vectors up to which a scan is as fast as an index and finds everything.
INDEX_FROM = 10_000
# pgvector's HNSW index takes no longer ones; they are scanned.
_LONGEST_INDEXED = 2000
# Names that became titles after a passage was stored come after those that it was read with.
_LATE = 1_000_000
# Rows changed by one statement: enough to hide the round trip.
_CHUNK = 5000
# Passages from which questions are planned badly where PostgreSQL does not know how many there are: they took two to
# five times as long. It looks by itself too, but up to a minute later (`autovacuum_naptime`).
_COUNTED_FROM = 200


@dataclass(slots=True)
class State:
    """The line that a writer holds while it writes."""

    version: int
    last_row: int
    passages: int
    tokens: int
    dimension: int | None
    embedder: str | None
    indexed: bool
    counted: float  # passages when PostgreSQL last looked; negative before


class StoredPassages:
    """What `Preparation` has to know of the stored passages.

    Args:
        session: Any transaction.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def records_by_id(self, ids: Collection[str]) -> dict[str, Record]:
        """Read passages by id."""
        sql = "SELECT row, id, title, text, metadata FROM passages WHERE id = ANY(%s::text[])"
        found = self._session.ask(Statement(sql, [list(ids)]))[0]
        return {line[1]: Record(*line) for line in found}

    def vector_bytes(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Read vectors by row, as little-endian float32."""
        sql = "SELECT row, vector FROM vectors WHERE row = ANY(%s::bigint[])"
        found = self._session.ask(Statement(sql, [list(rows)]))[0]
        return {row: vector.astype("<f4").tobytes() for row, vector in found}


class Writer(StoredPassages):
    """One transaction that writes; it keeps other writers out and readers in.

    Args:
        session: Inside `Connections.writing`.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        columns = (
            "version, last_row, passages, tokens, dimension, embedder, indexed, "
            "(SELECT reltuples FROM pg_class WHERE oid = 'passages'::regclass)"
        )
        self.state = State(*session.ask(Statement(f"SELECT {columns} FROM state FOR UPDATE"))[0][0])
        session.be_patient()

    def delete(self, rows: Sequence[int]) -> None:
        """Remove passages, and what nothing else supports."""
        if not rows:
            return
        gone = [list(rows)]
        told, _, _, _, defined = self._session.ask(
            Statement("DELETE FROM passages WHERE row = ANY(%s::bigint[]) RETURNING row, words", gone),
            Statement("DELETE FROM vectors WHERE row = ANY(%s::bigint[])", gone),
            Statement("DELETE FROM mentions WHERE row = ANY(%s::bigint[])", gone),
            Statement("DELETE FROM facts WHERE row = ANY(%s::bigint[])", gone),
            Statement("DELETE FROM definitions WHERE row = ANY(%s::bigint[]) RETURNING name", gone),
        )
        said = [(row, [key(term) for term in words.split()]) for row, words in told]
        pairs = [(term, row) for row, terms in said for term in dict.fromkeys(terms)]
        for part in _chunks(pairs):
            sql = (
                "DELETE FROM postings USING unnest(%s::text[], %s::bigint[]) AS gone(term, row) "
                "WHERE postings.term = gone.term AND postings.row = gone.row"
            )
            self._session.ask(Statement(sql, [list(column) for column in zip(*part, strict=True)]))
        self._count_terms(Counter(term for term, _ in pairs), -1)
        # What was found only because it was a title is a name no longer.
        self._session.ask(
            Statement("DELETE FROM terms WHERE passages = 0"),
            Statement(
                "DELETE FROM mentions WHERE kind = 'title' AND name = ANY(%s::text[]) "
                "AND NOT EXISTS (SELECT FROM definitions d WHERE d.name = mentions.name)",
                [list({name for (name,) in defined})],
            ),
        )
        self.state.passages -= len(told)
        self.state.tokens -= sum(len(terms) for _, terms in said)

    def insert(self, records: Sequence[NewRecord], batch: Batch, vectors: NDArray[np.float32]) -> list[int]:
        """Store passages whose ids are free; return their rows."""
        before = self.state.last_row
        rows = list(range(before + 1, before + 1 + len(records)))
        had_passages = self.state.passages > 0
        self._store_passages(rows, records, batch, vectors)
        self._store_words(rows, batch)
        fresh = self._define(rows, batch)
        self._mention(rows, batch)
        if had_passages:
            self._link_earlier(fresh, before)
        self.state.last_row = rows[-1]
        self.state.passages += len(rows)
        self.state.tokens += sum(map(len, batch.tokens))
        return rows

    def finish(self) -> None:
        """Note down the change; the transaction's end makes it visible."""
        state = self.state
        state.version += 1
        sql = "UPDATE state SET version=%s, last_row=%s, passages=%s, tokens=%s, dimension=%s, embedder=%s"
        values = (state.version, state.last_row, state.passages, state.tokens, state.dimension, state.embedder)
        self._session.ask(Statement(sql, values))
        if not state.indexed and state.passages >= INDEX_FROM and (state.dimension or 0) <= _LONGEST_INDEXED:
            self._session.be_patient(boundless=True)
            self._session.ask(
                Statement("SET LOCAL maintenance_work_mem = '256MB'"),
                Statement("CREATE INDEX vectors_nearest ON vectors USING hnsw (vector vector_cosine_ops)"),
                Statement("UPDATE state SET indexed = true"),
            )
        if state.passages >= max(_COUNTED_FROM, 2 * state.counted):
            self._session.ask(Statement(f"ANALYZE {', '.join(NAMES)}"))

    def set_dimension(self, dimension: int) -> None:
        """Fix the length of all vectors; the memory is empty."""
        self.state.dimension = dimension
        self._session.ask(Statement(f"ALTER TABLE vectors ALTER COLUMN vector TYPE vector({int(dimension)})"))

    def _store_passages(
        self, rows: list[int], records: Sequence[NewRecord], batch: Batch, vectors: NDArray[np.float32]
    ) -> None:
        def lines() -> Iterator[tuple[Any, ...]]:
            for row, new, tokens in zip(rows, records, batch.tokens, strict=True):
                said = f" {' '.join(tokens)} "
                yield row, new.id, new.title, new.text, new.metadata, new.metadata, new.extraction, said

        self._session.copy("passages", "row, id, title, text, metadata, fields, extraction, words", lines())
        texts = (f"[{','.join(map(repr, vector))}]" for vector in vectors.tolist())
        self._session.copy("vectors", "row, vector", zip(rows, texts, strict=True))

    def _store_words(self, rows: list[int], batch: Batch) -> None:
        counts = [Counter(map(key, tokens)) for tokens in batch.tokens]
        self._session.copy(
            "postings",
            "term, row, frequency, length",
            (
                (term, row, frequency, len(tokens))
                for row, count, tokens in zip(rows, counts, batch.tokens, strict=True)
                for term, frequency in count.items()
            ),
        )
        self._count_terms(Counter(term for count in counts for term in count), +1)

    def _count_terms(self, passages: Counter[str], sign: int) -> None:
        for part in _chunks(sorted(passages.items())):
            sql = (
                "INSERT INTO terms SELECT * FROM unnest(%s::text[], %s::bigint[]) "
                "ON CONFLICT (term) DO UPDATE SET passages = terms.passages + excluded.passages"
            )
            terms, counts = zip(*part, strict=True)
            self._session.ask(Statement(sql, [list(terms), [sign * count for count in counts]]))

    def _define(self, rows: list[int], batch: Batch) -> list[str]:
        """Store what the passages define; return the names that nobody had defined."""
        defined = [
            (name, row, position, passage.title)
            for row, passage, extraction in zip(rows, batch.passages, batch.extractions, strict=True)
            for position, name in enumerate(dict.fromkeys(map(key, extraction.defines)))
        ]
        names = list(dict.fromkeys(name for name, *_ in defined))
        sql = "SELECT DISTINCT name FROM definitions WHERE name = ANY(%s::text[])"
        known = {name for (name,) in self._session.ask(Statement(sql, [names]))[0]}
        lines = ((name, row, position, title, drawer(name)) for name, row, position, title in defined)
        self._session.copy("definitions", "name, row, position, title, drawer", lines)
        firsts = {(name.split(" ", 1)[0], name.count(" ") + 1) for name in names}
        firsts = {(word, length) for word, length in firsts if length <= LONGEST_NAME}
        sql = "INSERT INTO first_words SELECT * FROM unnest(%s::text[], %s::integer[]) ON CONFLICT DO NOTHING"
        self._session.ask(Statement(sql, [[word for word, _ in firsts], [length for _, length in firsts]]))
        return [name for name in names if name not in known]

    def _mention(self, rows: list[int], batch: Batch) -> None:
        """Store which names the passages say: those that were read in them, and the titles of all passages."""
        titles = self._titles_in(batch.tokens)
        mentions: list[tuple[str, int, int, str]] = []
        facts: list[tuple[str, str, str, int, int]] = []
        for row, extraction, said in zip(rows, batch.extractions, titles, strict=True):
            kinds = _kinds(extraction, said)
            mentions += [(name, row, position, kind) for position, (name, kind) in enumerate(kinds.items())]
            facts += [
                (fact.subject, fact.relation, fact.object, row, position)
                for position, fact in enumerate(extraction.facts)
            ]
        self._session.copy("mentions", "name, row, position, kind", iter(mentions))
        if facts:
            self._session.copy("facts", "subject, relation, object, row, position", iter(facts))

    def _titles_in(self, token_lists: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return the defined names that occur in each run of tokens."""
        vocabulary = list({key(token) for tokens in token_lists for token in tokens})
        lengths: dict[str, list[int]] = {}
        sql = "SELECT word, length FROM first_words WHERE word = ANY(%s::text[]) ORDER BY word, length"
        for part in _chunks(vocabulary):
            for word, length in self._session.ask(Statement(sql, [part]))[0]:
                lengths.setdefault(word, []).append(length)
        candidates = [names_in(tokens, lengths) for tokens in token_lists]
        defined: set[str] = set()
        sql = "SELECT DISTINCT name FROM definitions WHERE name = ANY(%s::text[])"
        for part in _chunks(list({key(name) for found in candidates for name in found})):
            defined.update(name for (name,) in self._session.ask(Statement(sql, [part]))[0])
        return [[name for name in map(key, found) if name in defined] for found in candidates]

    def _link_earlier(self, fresh: Sequence[str], last_row: int) -> None:
        """Link the passages that said a name before any passage defined it."""
        phrases = [(name, run) for name in fresh for run in forms(name)]
        for part in _chunks(phrases, 1000):
            self._link_phrases(part, last_row)

    def _link_phrases(self, phrases: Sequence[tuple[str, list[str]]], last_row: int) -> None:
        tokens = list({key(word) for _, words in phrases for word in words})
        sql = "SELECT term, passages FROM terms WHERE term = ANY(%s::text[])"
        counts: dict[str, int] = dict(self._session.ask(Statement(sql, [tokens]))[0])
        wanted = [
            (name, min(map(key, words), key=lambda word: (counts[word], word)), f" {' '.join(words)} ")
            for name, words in phrases
            if all(key(word) in counts for word in words)
        ]
        if not wanted:
            return
        sql = (
            "INSERT INTO mentions SELECT q.name, p.row, %s, 'title' "
            "FROM unnest(%s::text[], %s::text[], %s::text[]) AS q(name, term, phrase) "
            "JOIN postings o ON o.term = q.term AND o.row <= %s JOIN passages p ON p.row = o.row "
            "WHERE position(q.phrase in p.words) > 0 ORDER BY q.name, p.row ON CONFLICT DO NOTHING"
        )
        columns = [list(column) for column in zip(*wanted, strict=True)]
        self._session.ask(Statement(sql, [_LATE, *columns, last_row]))


def check_storable(identity: str, title: str | None, text: str, metadata: str) -> None:
    """Refuse what PostgreSQL cannot hold.

    Raises:
        ValueError: A NUL character, or an id of more than 1,000 bytes.
    """
    escaped = "\\u0000" in metadata and "\x00" in _strings(json.loads(metadata))
    fields = {"id": identity, "title": title or "", "text": text, "metadata": "\x00" if escaped else ""}
    for what, value in fields.items():
        if "\x00" in value:
            msg = f"passage {identity!r}: its {what} has a NUL character, which PostgreSQL cannot hold"
            raise ValueError(msg)
    if len(identity.encode()) > 1000:
        msg = f"passage {identity[:40]!r}...: its id has more than 1,000 bytes, which PostgreSQL cannot index"
        raise ValueError(msg)


def _strings(value: Any) -> str:
    """Return all strings in a JSON value, one after another."""
    if isinstance(value, dict):
        return "".join(map(_strings, [*value, *value.values()]))
    if isinstance(value, list):
        return "".join(map(_strings, value))
    return value if isinstance(value, str) else ""


def _kinds(extraction: Extraction, titles: Sequence[str]) -> dict[str, str]:
    """Return the names that a passage mentions, each with what made it stand out first."""
    own = set(map(key, extraction.defines))
    ends = [end for fact in extraction.facts for end in (fact.subject, fact.object)]
    said = [(key(mention.name), mention.kind) for mention in extraction.mentions]
    said += [(key(end), "entity") for end in ends] + [(name, "title") for name in titles]
    kinds: dict[str, str] = {}
    for name, kind in said:
        if name not in own:
            kinds.setdefault(name, kind)
    return kinds


def _chunks(items: Sequence[Any], size: int = _CHUNK) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
