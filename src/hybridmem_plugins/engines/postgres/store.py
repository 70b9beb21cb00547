"""A memory in PostgreSQL: what `MemoryStore` is for a folder."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import networkx as nx
from numpy.typing import ArrayLike

from hybridmem_plugins.engines.address import PostgresAddress
from hybridmem_plugins.engines.postgres import schema
from hybridmem_plugins.engines.postgres.checking import problems_of
from hybridmem_plugins.engines.postgres.connection import Connections, Statement
from hybridmem_plugins.engines.postgres.filters import to_sql
from hybridmem_plugins.engines.postgres.reading import PostgresView, storable_ids
from hybridmem_plugins.engines.postgres.writing import StoredPassages, Writer, check_storable
from hybridmem_plugins.errors import EngineError, MemoryFormatError
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.caches import full_text
from hybridmem_plugins.memory.embedding import Embedder, check_embedder, check_vectors, fingerprint
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.inspection import CheckReport
from hybridmem_plugins.memory.preparation import Preparation
from hybridmem_plugins.memory.snapshot import NewRecord
from hybridmem_plugins.memory.validation import Entry, check_deleting, check_ids, check_passages
from hybridmem_plugins.passage import Passage

# Passages read at once where all are read.
_BATCH = 1000


class PostgresStore:
    """Passages with their vectors, words and graph in one PostgreSQL schema.

    Every change is one transaction: it is there as a whole or not at all, for every client at once. A question reads
    one committed state, in at most six round trips. Safe to use from many threads and processes.

    Args:
        address: `postgresql://user:password@host:port/database?schema=hybridmem&timeout=10`; what else libpq knows
            (`sslmode`, `passfile` ...) may stand there too.
        embedder: As `MemoryStore` takes it.
        extractor: As `MemoryStore` takes it.
        batch_size: Passages embedded and extracted at once.
        connections: How many at once.

    Raises:
        ValueError: The address cannot be understood.
        EngineError: PostgreSQL cannot be reached within the timeout, refuses, or lacks pgvector.
        EmbedderMismatchError: The memory was made with another embedder.
        MemoryFormatError: A newer version made the memory.
        ImportError: The extra `postgres` is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        embedder: Embedder | None = None,
        extractor: Extractor | None = None,
        batch_size: int = 512,
        connections: int = 8,
    ) -> None:
        self.embedder = embedder
        self.extractor = extractor
        self.path = None
        self.read_only = False
        self._batch_size = batch_size
        self._fingerprint: str | None = None
        self._address = PostgresAddress.parse(address)
        self._connections = Connections(self._address, connections)
        self._local = threading.local()
        self.last_trips = 0
        """Round trips of the question that was answered last; for measuring."""
        try:
            self._prepare()
        except BaseException:
            self._connections.close()
            raise

    def __repr__(self) -> str:
        return f"PostgresStore({self._address.shown!r})"

    def __len__(self) -> int:
        with self.reading() as view:
            return len(view)

    @property
    def address(self) -> str:
        """Where the memory lies, without secrets."""
        return self._address.shown

    # --- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[PostgresView]:
        """See one committed state, the newest when entered; may be nested in one thread."""
        known: PostgresView | None = getattr(self._local, "view", None)
        if known is not None:
            yield known
            return
        with self._connections.reading() as session:
            view = self._local.view = PostgresView(session)
            try:
                yield view
            finally:
                self._local.view = None
                self.last_trips = session.trips

    steady = reading
    """As `reading`: what is nested in it sees one state."""

    @property
    def vectors(self) -> Any:
        """The semantic tier inside `reading()`; None until the first passage was stored."""
        with self.reading() as view:
            return view.vectors

    def allowed(self, query: Filter | None) -> Statement | None:
        """Return a filter as SQL; None allows all."""
        with self.reading() as view:
            return view.allowed(query)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        """Return stored passages, in the order of the rows."""
        with self.reading() as view:
            return view.passages(rows)

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Return the id of each row."""
        with self.reading() as view:
            return view.ids(rows)

    def rows_of(self, ids: Sequence[str]) -> list[int | None]:
        """Return the row of each id, None for unknown ids."""
        with self.reading() as view:
            return view.rows_of(ids)

    def records(self) -> Iterator[list[tuple[NewRecord, int]]]:
        """Yield everything that is stored, in batches of passages with their rows, by ascending row."""
        with self._connections.reading() as session:
            last = 0
            while lines := session.ask(_batch_after(last))[0]:
                last = lines[-1][0]
                yield [(_record(*line[1:]), line[0]) for line in lines]

    def networkx(self) -> nx.MultiDiGraph:
        """Read the whole graph into memory: a copy, for memories small enough."""
        graph = KnowledgeGraph()
        with graph.bulk():
            for batch in self.records():
                rows = [row for _, row in batch]
                passages = [Passage(new.text, new.title, new.id) for new, _ in batch]
                extractions = [Extraction.from_json(new.extraction) for new, _ in batch]
                graph.add(rows, passages, extractions, [words(full_text(new.title, new.text)) for new, _ in batch])
        return graph.view

    # --- writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        passages: Sequence[Passage],
        vectors: ArrayLike | None = None,
        extractions: Sequence[Extraction] | None = None,
    ) -> list[str]:
        """Store passages in one transaction; as `MemoryStore.add`, which see.

        After an `EngineError` nothing is stored, unless the connection was cut in the very commit: add again, what is
        stored just so stays as it is.
        """
        self._refuse_while_reading()
        entries = check_passages(passages)
        for entry in entries:
            check_storable(entry.id, entry.passage.title, entry.passage.text, entry.metadata_json)
        if not entries:
            return []
        preparation = Preparation(entries, vectors, self.embedder, self.extractor, self._batch_size, extractions)
        with self._connections.reading() as session:
            missing = preparation.missing(StoredPassages(session))
        if missing and self.embedder is not None and self._fingerprint is None:
            self._fingerprint = fingerprint(self.embedder)
        while missing:
            preparation.prepare(missing)
            missing = self._store(preparation)
        return [entry.id for entry in entries]

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget passages by id; return the ids that were stored."""
        self._refuse_while_reading()
        checked = list(dict.fromkeys(check_ids(ids)))
        if not checked:
            return []
        with self._connections.writing() as session:
            writer = Writer(session)
            found = writer.records_by_id(storable_ids(checked))
            if found:
                writer.delete([record.row for record in found.values()])
                writer.finish()
        return [identity for identity in checked if identity in found]

    def delete_where(self, query: Filter) -> list[str]:
        """Forget the passages that a filter allows; return their ids, sorted."""
        self._refuse_while_reading()
        check_deleting(query)
        condition = to_sql(query)
        assert condition is not None
        with self._connections.writing() as session:
            writer = Writer(session)
            where = condition.indexed or condition
            sql = f"SELECT p.row, p.id FROM passages p WHERE {where.sql}"
            found = dict(session.ask(Statement(sql, where.parameters))[0])
            if found:
                writer.delete(list(found))
                writer.finish()
        return sorted(found.values())

    def compact(self) -> bool:
        """Write all tables anew, without the bytes of anything deleted; others wait meanwhile."""
        self._refuse_while_reading()
        self._connections.run_alone(*(f"VACUUM (FULL, ANALYZE) {table}" for table in schema.NAMES))
        return True

    def check(self) -> CheckReport:
        """Verify that all tables agree; reads everything."""
        with self._connections.reading() as session:
            version, passages = session.ask(Statement("SELECT version, passages FROM state"))[0][0]
            return CheckReport(passages, version, problems_of(session.ask))

    def load(self, batch: Sequence[NewRecord]) -> None:
        """Store passages with the vectors and extractions that another memory holds; those stored just so stay.

        Raises:
            EmbedderMismatchError: The vectors have another length than those stored.
        """
        for new in batch:
            check_storable(new.id, new.title, new.text, new.metadata)
        preparation = Preparation.of_records(batch)
        with self._connections.writing() as session:
            self._write(Writer(session), preparation)

    def embedder_known(self) -> str | None:
        """Return the fingerprint of the embedder that made the vectors."""
        with self.reading() as view:
            found: str | None = view.session.ask(Statement("SELECT embedder FROM state"))[0][0][0]
        return found

    def set_embedder(self, known: str | None) -> None:
        """Note down which embedder made the vectors that `load` brings."""
        self._fingerprint = known

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._connections.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------------------

    def _store(self, preparation: Preparation) -> list[Entry]:
        """Store prepared passages, or return those that have to be prepared first."""
        with self._connections.writing() as session:
            return self._write(Writer(session), preparation)

    def _write(self, writer: Writer, preparation: Preparation) -> list[Entry]:
        changed = preparation.changed(writer)
        missing = preparation.unprepared(changed)
        if missing or not changed:
            return missing
        records, batch, vectors = preparation.take(changed)
        self._check_vectors(writer, preparation.dimension)
        writer.delete([row for _, row in changed if row is not None])
        writer.insert(records, batch, vectors)
        writer.finish()
        return []

    def _check_vectors(self, writer: Writer, dimension: int) -> None:
        state = writer.state
        check_vectors(state.dimension, state.embedder, dimension, self._fingerprint)
        if state.dimension is None:
            writer.set_dimension(dimension)
        if state.embedder is None:
            state.embedder = self._fingerprint

    def _prepare(self) -> None:
        """Make the tables where they are missing, and refuse another embedder or a newer format."""
        if not self._exists():
            try:
                self._create()
            except EngineError:
                # Somebody else made it at the same time: what this session knew of the catalogue was old.
                if not self._exists():
                    raise
        with self._connections.reading() as session:
            found, known = session.ask(Statement("SELECT format, embedder FROM state"))[0][0]
        if found != schema.FORMAT_VERSION:
            msg = f"{self.address} has format {found}; this version reads format {schema.FORMAT_VERSION}"
            raise MemoryFormatError(msg)
        self._add_lengths()
        if known is not None and self.embedder is not None:
            self._fingerprint = fingerprint(self.embedder)
            check_embedder(known, self._fingerprint)

    def _add_lengths(self) -> None:
        """Give a memory that was made before passages had lengths these."""
        table = f"{self._address.schema}.passages"
        sql = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'length')"
        with self._connections.reading() as session:
            known = session.ask(Statement(sql, [table]))[0][0][0]
        if not known:
            with self._connections.writing() as session:
                session.ask(Statement(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {schema.LENGTH}"))

    def _exists(self) -> bool:
        with self._connections.reading() as session:
            sql = "SELECT to_regclass(%s) IS NOT NULL"
            return bool(session.ask(Statement(sql, [f"{self._address.schema}.state"]))[0][0][0])

    def _create(self) -> None:
        name = self._address.schema
        with self._connections.writing() as session:
            # Two that make the same memory at once: the second one waits and finds it made.
            session.ask(Statement("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"hybridmem:{name}"]))
            if session.ask(Statement("SELECT to_regclass(%s) IS NOT NULL", [f"{name}.state"]))[0][0][0]:
                return
            try:
                session.ask(Statement("CREATE EXTENSION IF NOT EXISTS vector"))
            except EngineError as error:
                msg = f"{error}; a memory needs pgvector: https://github.com/pgvector/pgvector"
                raise EngineError(msg) from None
            statements = [f"CREATE SCHEMA IF NOT EXISTS {name}", *schema.TABLES.split(";")]
            session.ask(*(Statement(sql) for sql in statements if sql.strip()))
            session.ask(
                Statement(
                    "INSERT INTO state (format, memory) VALUES (%s, %s)", [schema.FORMAT_VERSION, uuid.uuid4().hex]
                )
            )
        self._connections.forget_vectors()

    def _refuse_while_reading(self) -> None:
        if getattr(self._local, "view", None) is not None:
            msg = "a thread cannot write to a memory while it reads from it (inside `reading()`)"
            raise RuntimeError(msg)


def _batch_after(row: int) -> Statement:
    sql = (
        "SELECT p.row, p.id, p.title, p.text, p.metadata, p.extraction, v.vector FROM passages p "
        "JOIN vectors v ON v.row = p.row WHERE p.row > %s ORDER BY p.row LIMIT %s"
    )
    return Statement(sql, [row, _BATCH])


def _record(identity: str, title: str | None, text: str, metadata: str, extraction: str, vector: Any) -> NewRecord:
    return NewRecord(identity, title, text, metadata, extraction, vector.astype("<f4").tobytes())
