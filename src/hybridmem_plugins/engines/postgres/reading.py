"""What one question sees of a memory in PostgreSQL: one committed state under one filter, in few round trips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hybridmem_plugins.engines.postgres.connection import Session, Statement
from hybridmem_plugins.engines.postgres.filters import to_sql
from hybridmem_plugins.engines.postgres.graph import PostgresGraph
from hybridmem_plugins.engines.postgres.rows import COLUMNS, MetRows, by_row
from hybridmem_plugins.engines.postgres.schema import key
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.lexical import Floats
from hybridmem_plugins.memory.rows import Rows, as_rows
from hybridmem_plugins.memory.validation import check_ids
from hybridmem_plugins.memory.vectors import unit_query
from hybridmem_plugins.passage import Passage

K1, B = 1.2, 0.75
# pgvector's HNSW search list: longer finds more and takes longer; 40, its default, would find fewer than are asked for.
_SEARCH_LIST = 200


@dataclass(frozen=True, slots=True)
class _Totals:
    version: int
    passages: int
    tokens: int
    dimension: int | None
    indexed: bool


_TOTALS = Statement("SELECT version, passages, tokens, dimension, indexed FROM state")


class PostgresView:
    """The tiers as one question sees them.

    Args:
        session: A reading transaction.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.met = MetRows(self.ask)
        self.lexical = PostgresWords(self)
        self._semantic = PostgresVectors(self)
        self._graphs: dict[str, PostgresGraph] = {}
        self._allowed: Statement | None = None
        self._totals: _Totals | None = None
        self._expected: tuple[list[int], list[int]] | None = None
        self._expected_for: tuple[Any, ...] = ()

    def ask(self, *statements: Statement) -> list[list[tuple[Any, ...]]]:
        """Run statements in one round trip and return what each gave; the first trip brings the totals along."""
        if self._totals is not None:
            return self.session.ask(*statements)
        totals, *found = self.session.ask(_TOTALS, *statements)
        self._totals = _Totals(*totals[0])
        return found

    @property
    def totals(self) -> _Totals:
        """Counts over the whole memory."""
        if self._totals is None:
            self.ask()
        assert self._totals is not None
        return self._totals

    @property
    def version(self) -> int:
        """Number of changes so far."""
        return self.totals.version

    def __len__(self) -> int:
        return self.totals.passages

    @property
    def vectors(self) -> PostgresVectors | None:
        """The semantic tier; None until the first passage was stored."""
        return self._semantic if self.totals.dimension is not None else None

    @property
    def graph(self) -> PostgresGraph:
        """The relational tier, under the filter that `allowed` was asked for last."""
        name = _name(self._allowed)
        if name not in self._graphs:
            self._graphs[name] = PostgresGraph(self.ask, self.met, self._allowed)
        return self._graphs[name]

    def allowed(self, query: Filter | None) -> Statement | None:
        """Return a filter as SQL over `p`, and put it in force; None allows all."""
        self._allowed = to_sql(query)
        return self._allowed

    def permitted(self, rows: Sequence[int], allowed: Statement | None) -> list[int]:
        """Return the rows that a filter allows, in order."""
        if allowed is None or not rows:
            return list(rows)
        sql = f"SELECT p.row FROM passages p WHERE p.row = ANY(%s::bigint[]) AND ({allowed.sql})"
        kept = {row for (row,) in self.ask(Statement(sql, [list(rows), *allowed.parameters]))[0]}
        return [row for row in rows if row in kept]

    def matching(self, query: Filter | None) -> list[int]:
        """Return the rows that a filter allows, ascending."""
        allowed = to_sql(query)
        where = Statement("true") if allowed is None else allowed.indexed or allowed
        sql = f"SELECT p.row FROM passages p WHERE {where.sql} ORDER BY p.row"
        return [row for (row,) in self.ask(Statement(sql, where.parameters))[0]]

    def passages(self, rows: Sequence[int] | Rows) -> list[Passage]:
        """Return stored passages, in the order of the rows.

        Raises:
            KeyError: A row is not stored.
        """
        return [met.passage() for met in self.met.of(as_rows(rows).tolist())]

    def texts(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the texts of rows, in their order."""
        return [met.text for met in self.met.of(as_rows(rows).tolist())]

    def ids(self, rows: Sequence[int] | Rows) -> list[str]:
        """Return the id of each row."""
        return [met.id for met in self.met.of(as_rows(rows).tolist())]

    def rows_of(self, ids: Sequence[str]) -> list[int | None]:
        """Return the row of each id, None for unknown ids."""
        checked = check_ids(ids)
        sql = "SELECT id, row FROM passages WHERE id = ANY(%s::text[])"
        found: dict[str, int] = dict(self.ask(Statement(sql, [storable_ids(checked)]))[0])
        return [found.get(identity) for identity in checked]

    def expect(self, vector: ArrayLike, terms: Sequence[str], k: int, rows: Sequence[int], allowed: Any) -> None:
        """Read in one round trip what a question is about to ask for.

        Args:
            vector: What vectors will be compared with.
            terms: What words will be looked for.
            k: How many passages each tier will be asked for.
            rows: Passages that will be looked at besides.
            allowed: The filter in force.

        Raises:
            ValueError: The vector has another length than those stored.
        """
        query = np.asarray(vector, dtype=np.float32)
        unit_query(query, self._semantic.dimension)
        totals = self.totals
        statements = [
            *self._semantic.tuning(),
            self._semantic.statement(query, k, allowed, COLUMNS),
            self.lexical.statement(terms, k, allowed),
            *self.lexical.counting(terms, allowed),
            by_row(rows),
        ]
        found = self.ask(*statements)
        near, said, counts, population, named = found[-5:]
        self.met.take(named)
        self.lexical.learn(terms, allowed, counts, population)
        self._expected = self.met.take(near), self.met.take(said)
        self._expected_for = (query.tobytes(), tuple(terms), k, totals.version, repr(allowed))

    def expected_near(self, query: Floats, k: int, allowed: Any) -> list[int] | None:
        """Return what `expect` found by a vector, where it was asked for the same."""
        asked = self._expected_for
        same = asked and (asked[0], asked[2], asked[4]) == (query.tobytes(), k, repr(allowed))
        return self._expected[0] if same and self._expected is not None else None

    def expected_said(self, terms: Sequence[str], k: int, allowed: Any) -> list[int] | None:
        """Return what `expect` found by words, where it was asked for the same."""
        asked = self._expected_for
        same = asked and (asked[1], asked[2], asked[4]) == (tuple(terms), k, repr(allowed))
        return self._expected[1] if same and self._expected is not None else None


class PostgresVectors:
    """The semantic tier: pgvector, exact for small memories, its HNSW index for large ones."""

    def __init__(self, view: PostgresView) -> None:
        self._view = view

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self._view.totals.dimension or 0)

    def search(self, vector: ArrayLike, k: int, allowed: Statement | None = None) -> tuple[Rows, Floats]:
        """Return the k rows nearest to a vector and their cosine similarities, best first."""
        if k < 1:
            msg = f"k must be at least 1, not {k}"
            raise ValueError(msg)
        query = unit_query(vector, self.dimension)
        rows = self._view.expected_near(np.asarray(vector, dtype=np.float32), k, allowed)
        if rows is None:
            statements = [*self.tuning(), self.statement(query, k, allowed, COLUMNS)]
            rows = self._view.met.take(self._view.ask(*statements)[-1])
        labels = as_rows(rows)
        scores = self.similarity(query, rows)
        order = np.lexsort((labels, -scores))
        return labels[order], scores[order]

    def similarity(self, vector: ArrayLike, rows: Sequence[int] | Rows) -> Floats:
        """Return the cosine similarity of a vector to each row."""
        query = unit_query(vector, self.dimension)
        similarities: Floats = np.einsum("ij,j->i", self.vectors(rows), query)
        return similarities

    def vectors(self, rows: Sequence[int] | Rows) -> Floats:
        """Return the unit vectors of rows, shape `(rows, dimension)`."""
        return self._view.met.units(as_rows(rows).tolist(), self.dimension)

    def tuning(self) -> list[Statement]:
        """Return the settings under which the index finds as many as are asked for, a filter or not."""
        if not self._view.totals.indexed:
            return []
        return [
            Statement(
                f"SELECT set_config('hnsw.ef_search', '{_SEARCH_LIST}', true), "
                "set_config('hnsw.iterative_scan', 'strict_order', true), "
                "set_config('hnsw.max_scan_tuples', '2147483647', true)"
            )
        ]

    def statement(self, query: Floats, k: int, allowed: Statement | None, columns: str) -> Statement:
        """Return the statement that finds the passages nearest to a vector."""
        where: Statement = Statement("true") if allowed is None else getattr(allowed, "indexed", None) or allowed
        join = "" if allowed is None else "JOIN passages p ON p.row = n.row"
        if np.any(query):
            # The row decides between equals; an index gives no order among them, and would not be used.
            order = "n.vector <=> %s" + ("" if self._view.totals.indexed else ", n.row")
            ordered: list[Any] = [query]
        else:  # unlike everything
            order, ordered = "n.row", []
        sql = (
            f"WITH near AS MATERIALIZED (SELECT n.row FROM vectors n {join} WHERE {where.sql} "
            f"ORDER BY {order} LIMIT %s) SELECT {columns} FROM near "
            "JOIN passages p ON p.row = near.row JOIN vectors v ON v.row = near.row"
        )
        return Statement(sql, [*where.parameters, *ordered, min(k, len(self._view))])


@dataclass(slots=True)
class _Counts:
    """What is counted under one filter: passages and tokens in all, and in how many passages each token stands."""

    passages: int
    tokens: int
    holding: dict[str, int]

    @property
    def average(self) -> float:
        """Tokens of a passage."""
        return max(self.tokens / max(1, self.passages), 1e-9)


class PostgresWords:
    """The lexical tier: BM25 over a table of postings, with the scores of `LexicalIndex`.

    Under a filter only the passages that it allows are counted, as if there were no others.
    """

    def __init__(self, view: PostgresView) -> None:
        self._view = view
        self._counts: dict[str, _Counts] = {}  # by filter

    def __len__(self) -> int:
        return len(self._view)

    def search(self, tokens: Sequence[str], k: int, allowed: Statement | None = None) -> tuple[Rows, Floats]:
        """Return the k rows with the highest BM25 scores, best first."""
        if k < 1:
            msg = f"k must be at least 1, not {k}"
            raise ValueError(msg)
        rows = self._view.expected_said(tokens, k, allowed)
        if rows is None:
            lines, *told = self._view.ask(self.statement(tokens, k, allowed), *self.counting(tokens, allowed))
            self.learn(tokens, allowed, *told)
            rows = self._view.met.take(lines)
        weights = Counter(tokens)
        terms = list(weights)
        labels = as_rows(rows)
        times = np.array([weights[term] for term in terms], dtype=np.float32)
        scores = (self.gains(terms, rows, allowed) * times).sum(axis=1)
        order = np.lexsort((labels, -scores))
        return labels[order], scores[order]

    def gains(self, tokens: Sequence[str], rows: Sequence[int] | Rows, allowed: Statement | None = None) -> Floats:
        """Return what each token adds to the score of each row, shape `(rows, tokens)`."""
        counts = self._counted(tokens, allowed)
        frequencies, lengths = self._view.met.frequencies(as_rows(rows).tolist(), tokens)
        norms = (K1 * (1 - B + B * (lengths / counts.average))).astype(np.float32)
        gains: Floats = _weights(tokens, counts) * (frequencies / (frequencies + norms[:, None]))
        return gains

    def idf(self, tokens: Sequence[str], allowed: Statement | None = None) -> Floats:
        """Return how telling each token is among the allowed passages."""
        return _weights(tokens, self._counted(tokens, allowed))

    def _counted(self, tokens: Sequence[str], allowed: Statement | None) -> _Counts:
        known = self._counts.get(_name(allowed))
        missing = [token for token in dict.fromkeys(tokens) if known is None or token not in known.holding]
        if known is None or missing:
            known = self.learn(missing, allowed, *self._view.ask(*self.counting(missing, allowed)))
        return known

    def learn(
        self,
        tokens: Sequence[str],
        allowed: Statement | None,
        counts: Sequence[tuple[Any, ...]],
        population: Sequence[tuple[Any, ...]],
    ) -> _Counts:
        """Remember and return what `counting` found."""
        found, [(passages, words)] = dict(counts), population
        known = self._counts.setdefault(_name(allowed), _Counts(int(passages), int(words), {}))
        known.holding.update((token, found.get(key(token), 0)) for token in tokens)
        return known

    def counting(self, tokens: Sequence[str], allowed: Statement | None) -> list[Statement]:
        """Return the statements that count in how many passages tokens stand, and passages and tokens in all."""
        terms = list(map(key, tokens))
        if allowed is None:
            counts = Statement("SELECT term, passages FROM terms WHERE term = ANY(%s::text[])", [terms])
            return [counts, Statement("SELECT passages, tokens FROM state")]
        every = getattr(allowed, "indexed", None) or allowed
        return [
            Statement(
                "SELECT o.term, count(*) FROM postings o JOIN passages p ON p.row = o.row "
                f"WHERE o.term = ANY(%s::text[]) AND ({allowed.sql}) GROUP BY o.term",
                [terms, *allowed.parameters],
            ),
            Statement(
                f"SELECT count(*), coalesce(sum(p.length), 0) FROM passages p WHERE {every.sql}", every.parameters
            ),
        ]

    def statement(self, tokens: Sequence[str], k: int, allowed: Statement | None) -> Statement:
        """Return the statement that finds the passages with the highest scores."""
        counts = Counter(map(key, tokens))
        terms = list(counts)
        join, where = ("", Statement("true")) if allowed is None else ("JOIN passages p ON p.row = o.row", allowed)
        held, population = self.counting(terms, allowed)
        sql = (
            f"WITH held(term, passages) AS MATERIALIZED ({held.sql}), "
            f"counted(passages, tokens) AS MATERIALIZED ({population.sql}), "
            "asked AS MATERIALIZED (SELECT held.term, "
            "%s::float8 * counted.passages / greatest(counted.tokens, 1e-9::float8) AS slope, "
            "given.times * ln(1 + (counted.passages - held.passages + 0.5::float8) / (held.passages + 0.5)) AS weight "
            "FROM unnest(%s::text[], %s::float8[]) AS given(term, times) JOIN held USING (term) CROSS JOIN counted), "
            "said AS MATERIALIZED (SELECT o.row, "
            "sum(asked.weight * o.frequency / (o.frequency + %s::float8 + asked.slope * o.length))::real AS score "
            f"FROM asked JOIN postings o USING (term) {join} WHERE {where.sql} "
            "GROUP BY o.row ORDER BY score DESC, o.row LIMIT %s) "
            f"SELECT {COLUMNS} FROM said JOIN passages p ON p.row = said.row JOIN vectors v ON v.row = said.row"
        )
        parameters = [
            *held.parameters, *population.parameters, K1 * B, terms, list(map(float, counts.values())), K1 * (1 - B),
            *where.parameters, min(k, len(self)),
        ]  # fmt: skip
        return Statement(sql, parameters)


def _weights(tokens: Sequence[str], counts: _Counts) -> Floats:
    held = np.array([counts.holding[token] for token in tokens], dtype=np.int64)
    return np.log1p((counts.passages - held + 0.5) / (held + 0.5)).astype(np.float32)


def _name(allowed: Statement | None) -> str:
    """Return what tells filters apart."""
    return "" if allowed is None else repr((allowed.sql, allowed.parameters))


def storable_ids(ids: Sequence[str]) -> list[str]:
    """Return the ids that can be stored at all; PostgreSQL refuses to look for others."""
    return [one for one in ids if "\x00" not in one and not any("\ud800" <= letter <= "\udfff" for letter in one)]
