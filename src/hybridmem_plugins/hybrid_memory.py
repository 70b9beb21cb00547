"""The memory that users hold: passages in, ranked passages and facts out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import networkx as nx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.backend import Backend, View
from hybridmem_plugins.engines import check_folder, is_address, open_engine
from hybridmem_plugins.engines.graphs import ExternalGraph, GraphEngine
from hybridmem_plugins.engines.vectors import ExternalTier, VectorEngine
from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.extraction.resolving import NameResolver, Resolver, ResolvingExtractor
from hybridmem_plugins.extraction.tokens import name_key, words
from hybridmem_plugins.memory.embedding import Embedder
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.memory.validation import positive
from hybridmem_plugins.memory.vectors import Engine
from hybridmem_plugins.memory.workers import Workers
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.asking import check_question, unit_vector
from hybridmem_plugins.retrieval.engine import Result, retrieve
from hybridmem_plugins.retrieval.explain import Explanation, explain
from hybridmem_plugins.retrieval.features import FIRST_STAGE
from hybridmem_plugins.retrieval.linking import Question, names_said, read_question
from hybridmem_plugins.retrieval.model import Fact, Hit, Route
from hybridmem_plugins.retrieval.provenance import Said, path_rows, provenance, said_in, stated_fact
from hybridmem_plugins.retrieval.router import Choice, Router, default_router
from hybridmem_plugins.retrieval.tiers import BoundTiers
from hybridmem_plugins.sharing import Shared

T = TypeVar("T")
Vector = NDArray[np.float32]

# Passages whose sentences `facts` reads.
_FACT_SOURCES = 12


class HybridMemory(Shared):
    """Vectors, words and a knowledge graph over one set of passages, always in step.

    Safe to use from many threads and tasks. With a path, everything that `add` and `delete` return for survives a
    crash; another process may read at the same time.

    Args:
        embedder: Object with `embed_documents(list[str])` and `embed_query(str)`; None takes the bundled static one.
        path: Folder of the memory, made when missing; None keeps it in memory only; an address such as
            `postgresql://user@host/database` keeps it in an engine (see docs/scaling.md).
        extractor: Finds the entities of passages; None takes the built-in one, which needs no model.
        aliases: Other spellings of names and the names they stand for, for example `{"NVM": "non-volatile memory"}`;
            for questions, and for passages added from then on.
        resolver: Called with each normalised name that a passage or a question says; returns the name to use instead.
        router: Chooses the route of each question that leaves it open.
        engine: `auto`, `hnswlib` or `exact` (see `VectorIndex`).
        write_timeout: Seconds to wait for another writer.
        vectors: A vector database that holds the vectors beside the folder: `as_vector_engine(store)` of
            `hybridmem_plugins.langchain` or `hybridmem_plugins.llama_index`.
        graph: A graph database that holds the graph beside the folder: `as_graph_engine(store)` of
            `hybridmem_plugins.llama_index`.

    Raises:
        MemoryFormatError: The folder is no memory, is damaged, or was written by a newer version.
        EmbedderMismatchError: The memory was made with another embedder.
        EngineError: The engine at the address cannot be reached, or refuses.

    >>> with HybridMemory() as memory:
    ...     ids = memory.add([
    ...         Passage(id="1", title="Ada Lovelace", text="She wrote the first program, for the Analytical Engine."),
    ...         Passage(id="2", title="Analytical Engine", text="It was designed by Charles Babbage."),
    ...     ])
    ...     [hit.passage.id for hit in memory.search("Who designed the machine that Ada Lovelace wrote for?", k=2)]
    ['1', '2']
    """

    def __init__(
        self,
        embedder: Embedder | None = None,
        path: str | Path | None = None,
        *,
        extractor: Extractor | None = None,
        aliases: Mapping[str, str] | None = None,
        resolver: Resolver | None = None,
        router: Router = default_router,
        engine: Engine = "auto",
        write_timeout: float = 30.0,
        vectors: VectorEngine | None = None,
        graph: GraphEngine | None = None,
    ) -> None:
        check_folder(path)
        self.embedder: Embedder = StaticEmbedder() if embedder is None else embedder
        self.router = router
        self._resolve = NameResolver(aliases, resolver)
        found_by: Extractor = BuiltinExtractor() if extractor is None else extractor
        reader = ResolvingExtractor(found_by, self._resolve) if self._resolve else found_by
        # More threads than cores would not search faster, but leave the event loop a smaller share of Python's lock:
        # with six on two cores, 50 searches at once held it up for 0.05-0.35 s at a time, with three 0.03-0.05 s.
        self._pool = Workers((os.cpu_count() or 1) + 1, "hybridmem")
        self._store: Backend
        if isinstance(path, str) and is_address(path):
            if vectors is not None or graph is not None:
                msg = "a memory at an address holds everything there; `vectors` and `graph` go with a folder"
                raise ValueError(msg)
            self._store = open_engine(path, embedder=self.embedder, extractor=reader)
        else:
            self._store = MemoryStore(
                path,
                embedder=self.embedder,
                extractor=reader,
                graph=KnowledgeGraph() if graph is None else ExternalGraph(graph),
                write_timeout=write_timeout,
                engine=engine,
                vectors=None if vectors is None else ExternalTier(vectors),
            )

    # --- writing -------------------------------------------------------------------------------------------------

    def add(
        self,
        passages: Sequence[Passage],
        vectors: ArrayLike | None = None,
        extractions: Sequence[Extraction] | None = None,
    ) -> list[str]:
        """Store passages in one step; one whose id is stored already is replaced.

        Args:
            passages: What to store. Ids are derived from title, text and metadata where they are missing.
            vectors: Shape `(n, dimension)`; None asks the embedder.
            extractions: What was read in each passage elsewhere (see `filling`); None asks the extractor.

        Returns:
            The ids, in order.

        Raises:
            TypeError: Something is no `Passage`, or a field has the wrong type.
            ValueError: An empty text, an id given twice, metadata that is not JSON, or bad vectors.
            MemoryLockedError: Another writer was busy for longer than the timeout.
        """
        return self._store.add(passages, vectors, extractions)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Forget passages with their vectors, names and edges; return the ids that were stored."""
        return self._store.delete(ids)

    def delete_where(self, filter: Filter) -> list[str]:  # noqa: A002
        """Forget the passages that a filter allows; return their ids, sorted."""
        return self._store.delete_where(filter)

    def compact(self) -> bool:
        """Remove every trace of deleted passages from the files; False while that cannot be done."""
        return self._store.compact()

    def close(self) -> None:
        """Save and close; a second call does nothing."""
        self._store.close()
        self._pool.shutdown(wait=False)

    # --- reading -------------------------------------------------------------------------------------------------

    def search(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        """Return the passages that answer a question, best first.

        Args:
            question: In natural language.
            k: How many; fewer only where fewer are stored and allowed.
            filter: Metadata that passages must have, for example `{"tenant": "a", "year": {"$gte": 2020}}`, or a
                callable over metadata. What it excludes is neither returned nor used on the way.
            route: `auto`, or a route to force: `semantic`, `relational`, `both`, or `vector` for the vectors alone.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: An empty question, k < 1, an unknown route or filter operator.
        """
        k = positive("k", k)
        return self._retrieve(question, k, filter, route, partial(_hits, k=k))

    def explain(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> Explanation:
        """Return why `search` finds what it finds: entities, route, seeds, hops with their sentences, and all scores.

        Takes and raises what `search` does.
        """
        k = positive("k", k)

        def explained(store: View, result: Result) -> Explanation:
            return explain(
                result, _hits(store, result, k), store.passages, asked_route=route, filtered=filter is not None
            )

        return self._retrieve(question, k, filter, route, explained)

    def facts(self, question: str, k: int = 8, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        """Return the sentences that link entities, for the entities of a question and the passages that answer it.

        The typed facts that an optional extractor read about the entities of the question come first.

        Args:
            question: In natural language, or a name.
            k: How many at most.
            filter: As in `search`.

        Raises:
            ValueError: An empty question, k < 1, or an unknown filter operator.
        """
        check_question(question)
        k = positive("k", k)
        with self._store.steady():
            scores = {str(hit.passage.id): hit.score for hit in self.search(question, max(k, _FACT_SOURCES), filter)}
            with self._store.reading() as store:
                allowed = store.allowed(filter)
                rows = store.permitted([row for row in store.rows_of(list(scores)) if row is not None], allowed)
                said = f" {name_key(question)} "
                mentioned = store.graph.mentions_of(rows, allowed)
                found: list[Said] = []
                for row, passage in zip(rows, store.passages(rows), strict=True):
                    score = scores[str(passage.id)]
                    names = [(name, score * (1.0 if f" {name} " in said else 0.9)) for name in mentioned[row]]
                    found += said_in(passage, names)
                found.sort(key=lambda said: (-said.score, str(said.passage.id), said.spelling))
                typed = self._typed_facts(question, store, allowed, max((said.score for said in found), default=0.0))
        return [*typed, *(said.fact() for said in found[:k])][:k]

    def _typed_facts(self, question: str, store: View, allowed: Any, floor: float) -> list[Fact]:
        """Return the relations of the names in a question, those first of which it says the most; scored above a floor.

        The caller is reading.
        """
        asked = self._read(question, store, allowed)
        names = names_said(asked, store.graph, allowed, self._resolve if self._resolve else None)
        facts = store.graph.relations(names, allowed)
        if not facts:
            return []
        passages = dict(zip((rows := [row for *_, row in facts]), store.passages(rows), strict=True))
        tokens = set(asked.tokens)

        def relevance(subject: str, relation: str, object_: str) -> float:
            told = words(relation)
            return (1 + (subject in names) + (object_ in names) + sum(t in tokens for t in told) / len(told or " ")) / 4

        found = []
        for subject, relation, object_, row in facts:
            score = floor + (1 - floor) * relevance(subject, relation, object_)
            found.append(stated_fact(passages[row], subject, relation, object_, score))
        return sorted(found, key=lambda fact: (-fact.score, fact.passage_id, fact.subject, fact.relation, fact.object))

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """Return the stored passages among these ids, in order; unknown ids are left out."""
        with self._store.reading() as store:
            return store.passages([row for row in store.rows_of(ids) if row is not None])

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._store)

    def __bool__(self) -> bool:
        """Say yes, also while it is empty or closed, so that `memory or HybridMemory()` never takes another one."""
        return True

    @property
    def graph(self) -> nx.MultiDiGraph:
        """The knowledge graph as a read-only `networkx.MultiDiGraph` that follows every later change.

        Of a memory in an engine it is a copy, read as a whole: for memories that fit. Nodes are names (normalised
        text) and passages (`passage:` and the id); edges are `defines`, `mentions`, and the relations that an
        optional extractor found.
        """
        return self._store.networkx()

    @property
    def store(self) -> Any:
        """What lies beneath: a `MemoryStore` with the journal and its indexes, or an engine's store."""
        return self._store

    def _retrieve(
        self,
        question: str,
        k: int,
        filter: Filter | None,  # noqa: A002
        route: Route,
        finish: Callable[[View, Result], T],
    ) -> T:
        """Search, and finish while the store still holds what was found."""
        check_question(question, route)
        with self._store.steady():
            with self._store.reading() as store:
                asked = self._read(question, store, store.allowed(filter))
                version = store.version
                if not len(store):
                    return finish(store, _nothing_stored(asked, route, filter))
            vectors = self._embed(asked)  # May take long where the embedder is remote: nobody waits for it.
            with self._store.reading() as store:
                if store.vectors is None:
                    return finish(store, _nothing_stored(asked, route, filter))
                allowed = store.allowed(filter)
                if store.version != version:
                    asked = self._read(question, store, allowed)
                named = [row for link in asked.titles for row in link.info.definers]
                store.expect(vectors[0], asked.terms, max(k, FIRST_STAGE), named, allowed)
                tiers = BoundTiers(store.vectors, store.lexical, store.graph)
                result = retrieve(asked, vectors, tiers, k, allowed=allowed, route=route, router=self.router)
                return finish(store, result if result.found or not filter else _nothing_stored(asked, route, filter))

    def _read(self, question: str, store: View, allowed: Any) -> Question:
        return read_question(question, store.graph, allowed, self._resolve if self._resolve else None)

    def _embed(self, question: Question) -> tuple[Vector, Vector]:
        """Return the vectors of a question and of what it asks about its titles."""
        vector = unit_vector(self.embedder.embed_query(question.text))
        if not question.titles or not question.rest:
            return vector, vector
        return vector, unit_vector(self.embedder.embed_query(question.rest))

    # --- async twins ---------------------------------------------------------------------------------------------

    async def aadd(
        self,
        passages: Sequence[Passage],
        vectors: ArrayLike | None = None,
        extractions: Sequence[Extraction] | None = None,
    ) -> list[str]:
        """Do as `add`, without blocking the event loop."""
        return await self._run(partial(self.add, passages, vectors, extractions))

    async def adelete(self, ids: Sequence[str]) -> list[str]:
        """Do as `delete`, without blocking the event loop."""
        return await self._run(partial(self.delete, ids))

    async def adelete_where(self, filter: Filter) -> list[str]:  # noqa: A002
        """Do as `delete_where`, without blocking the event loop."""
        return await self._run(partial(self.delete_where, filter))

    async def acompact(self) -> bool:
        """Do as `compact`, without blocking the event loop."""
        return await self._run(self.compact)

    async def asearch(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        """Do as `search`, without blocking the event loop."""
        return await self._run(partial(self.search, question, k, filter, route))

    async def aexplain(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> Explanation:
        """Do as `explain`, without blocking the event loop."""
        return await self._run(partial(self.explain, question, k, filter, route))

    async def afacts(self, question: str, k: int = 8, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        """Do as `facts`, without blocking the event loop."""
        return await self._run(partial(self.facts, question, k, filter))

    async def aget(self, ids: Sequence[str]) -> list[Passage]:
        """Do as `get`, without blocking the event loop."""
        return await self._run(partial(self.get, ids))

    async def aclose(self) -> None:
        """Do as `close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    async def _run(self, call: Callable[[], T]) -> T:
        # Of many callers that start together, all get going before the first search takes Python's lock from them.
        await asyncio.sleep(0)
        context = copy_context()  # As `asyncio.to_thread` does: an embedder sees its caller's trace and settings.
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, context.run, call)
        except RuntimeError:  # No thread takes it after `close`; called here, it refuses at once and as its twin does.
            return call()
        return await future

    # --- context managers ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _hits(store: View, result: Result, k: int) -> list[Hit]:
    """Read the passages that were found and say why each is there; equal scores are in the order of their ids."""
    ids = dict(zip([f.row for f in result.found], store.ids([f.row for f in result.found]), strict=True))
    first = result.choice.route == "relational"
    best = sorted(result.found, key=lambda f: (first and f.graph_score is None, -f.score, ids[f.row]))[:k]
    reached = sorted((f for f in best if f.graph_score is not None), key=lambda f: -(f.graph_score or 0.0))
    graph_ranks = {found.row: rank for rank, found in enumerate(reached, 1)}
    rows = dict.fromkeys(row for found in best for row in path_rows(result, found.row))
    passages = dict(zip(rows, store.passages(list(rows)), strict=True))
    return [
        Hit(passages[found.row], found.score, provenance(result, found, graph_ranks.get(found.row), passages))
        for found in best
    ]


def _nothing_stored(asked: Question, route: Route, filter: Filter | None) -> Result:  # noqa: A002
    """Return what is found where no passage may be found; with a filter, whether there are others is not told."""
    reason = "the filter allows no passage that is stored" if filter else "the memory is empty"
    return Result(asked, Choice("semantic" if route == "auto" else route, reason))
