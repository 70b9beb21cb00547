"""The hybrid memory as a LangChain retriever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.stores import BaseStore
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, field_validator

from hybridmem_plugins.async_embedding import AsyncEmbedder, opened
from hybridmem_plugins.engines import is_address
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.langchain.documents import hit_to_document, texts_to_documents, to_passages
from hybridmem_plugins.langchain.embedding import to_embedder
from hybridmem_plugins.langchain.stages import merge_reranked, parent_ids, to_parents
from hybridmem_plugins.langchain.tool import retriever_tool
from hybridmem_plugins.memory.embedding import embedder_name
from hybridmem_plugins.memory.filters import Filter, both_filters, compile_filter
from hybridmem_plugins.memory.validation import positive
from hybridmem_plugins.retrieval.diversity import diversify
from hybridmem_plugins.retrieval.explain import Explanation
from hybridmem_plugins.retrieval.model import Fact, Hit, Route

SearchType = Literal["similarity", "mmr"]


class HybridRetriever(BaseRetriever):
    """Retriever over a hybrid memory: finds by meaning (hnswlib), by words (BM25) and by relation (networkx graph).

    The graph is built from titles, links and names without a language model.

    Setup:
        ```bash
        pip install 'hybridmem-plugins[langchain]'
        ```

    Instantiate:
        ```python
        from hybridmem_plugins.langchain import HybridRetriever

        retriever = HybridRetriever.from_documents(documents, persist_directory="memory", k=8)
        retriever = HybridRetriever.from_persist_directory("memory")  # later, or in another process
        ```

        `embedding=` takes any LangChain `Embeddings`; without one, a small bundled model is used.

    Use:
        ```python
        retriever.invoke("Who designed the machine that Ada Lovelace wrote for?")
        await retriever.ainvoke("...", k=3, filter={"tenant": "a"})
        chain = {"context": retriever | format_documents, "question": RunnablePassthrough()} | prompt | model
        ```

        Each document has its `id`, a `score` (between 0 and 1, higher is better) and, under `hybridmem`, why it was
        found: routes with ranks and scores, the seed, and the path with the sentences that justify each step.

    Add and delete:
        ```python
        ids = retriever.add_documents(documents)  # the same id replaces
        retriever.delete(ids)
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memory: HybridMemory
    """What is searched; shared by copies of the retriever."""
    k: int = Field(default=8, ge=1)
    """How many documents to return."""
    filter: Any = None
    """Metadata that documents must have: a dict in the memory's filter language, or a callable over metadata. A filter
    of a call is asked for in addition, so it can narrow this one but not widen it."""
    route: Route = "auto"
    """`auto`, `semantic`, `relational`, `both`, or `vector` for the vectors alone."""
    search_type: SearchType = "similarity"
    """`mmr` chooses among `fetch_k` candidates by maximal marginal relevance."""
    lambda_mult: float = Field(default=0.5, ge=0, le=1)
    """For `mmr`: 1 asks for relevance only, 0 for difference only."""
    fetch_k: int | None = Field(default=None, ge=1)
    """Candidates for `mmr`, the reranker and parents; None takes four times k, at least 20."""
    reranker: BaseDocumentCompressor | None = None
    """Orders the candidates anew; documents keep their metadata."""
    parent_store: BaseStore[str, Document] | None = None
    """Holds whole documents, of which the memory holds the parts; parents are returned instead of parts."""
    parent_id_key: str = "doc_id"
    """Key of a part's metadata that holds the id of its parent."""
    title_key: str | None = "title"
    """Key of the metadata that holds a document's title; None means that there are no titles."""
    score_key: str | None = "score"
    """Where the score goes in the metadata, unless the key is taken; None leaves it out."""
    provenance_key: str | None = "hybridmem"
    """Where the reasons go in the metadata; None leaves them out."""

    @field_validator("filter")
    @classmethod
    def _check_filter(cls, filter: Filter | None) -> Filter | None:  # noqa: A002
        if filter is not None:
            compile_filter(filter)
        return filter

    # --- making one ----------------------------------------------------------------------------------------------

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        embedding: Any = None,
        persist_directory: str | Path | None = None,
        k: int = 8,
        ids: Sequence[str] | None = None,
        title_key: str | None = "title",
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Store documents in a memory and return a retriever over it.

        Args:
            documents: What to store; may be empty.
            embedding: LangChain `Embeddings`; None takes the bundled model.
            persist_directory: Folder of the memory, or an engine's address; made when missing, added to when it holds
                one; None keeps it in memory only.
            k: How many documents to return.
            ids: One a document; None takes the documents' own, or derives them from their content.
            title_key: Key of the metadata that holds a document's title.
            memory_options: More arguments of `HybridMemory`, such as `extractor`, `aliases` or `router`.
            **kwargs: More fields of the retriever.

        Raises:
            TypeError: An argument has the wrong type, or metadata is not JSON.
            ValueError: Empty text, an id given twice, or an unknown argument.
            MemoryFormatError: The folder is no memory.
            EmbedderMismatchError: The memory was made with another embedding.
        """
        memory = HybridMemory(to_embedder(embedding), persist_directory, **(memory_options or {}))
        try:
            retriever = cls(memory=memory, k=k, title_key=title_key, **kwargs)
            retriever.add_documents(documents, ids=ids)
        except BaseException:
            memory.close()
            raise
        return retriever

    @classmethod
    async def afrom_documents(
        cls,
        documents: Sequence[Document],
        embedding: Any = None,
        persist_directory: str | Path | None = None,
        k: int = 8,
        ids: Sequence[str] | None = None,
        title_key: str | None = "title",
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do as `from_documents`, without blocking the event loop."""
        embedder = to_embedder(embedding)
        memory = await opened(partial(HybridMemory, embedder, persist_directory, **(memory_options or {})))
        try:
            retriever = cls(memory=memory, k=k, title_key=title_key, **kwargs)
            await retriever.aadd_documents(documents, ids=ids)
        except BaseException:
            await memory.aclose()
            raise
        return retriever

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embedding: Any = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Store texts in a memory and return a retriever over it.

        Args:
            texts: What to store.
            embedding: LangChain `Embeddings`; None takes the bundled model.
            metadatas: One a text.
            ids: One a text.
            **kwargs: As in `from_documents`.
        """
        return cls.from_documents(texts_to_documents(texts, metadatas), embedding, ids=ids, **kwargs)

    @classmethod
    async def afrom_texts(
        cls,
        texts: Sequence[str],
        embedding: Any = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do as `from_texts`, without blocking the event loop."""
        return await cls.afrom_documents(texts_to_documents(texts, metadatas), embedding, ids=ids, **kwargs)

    @classmethod
    def from_persist_directory(
        cls,
        persist_directory: str | Path,
        embedding: Any = None,
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open a memory that was stored before.

        Args:
            persist_directory: Its folder.
            embedding: The embedding that it was made with.
            memory_options: More arguments of `HybridMemory`.
            **kwargs: Fields of the retriever.

        Raises:
            FileNotFoundError: There is no such folder.
            MemoryFormatError: The folder is no memory.
            EmbedderMismatchError: The memory was made with another embedding.
        """
        _check_stored(persist_directory)
        return cls.from_documents([], embedding, persist_directory, memory_options=memory_options, **kwargs)

    @classmethod
    async def afrom_persist_directory(
        cls,
        persist_directory: str | Path,
        embedding: Any = None,
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do as `from_persist_directory`, without blocking the event loop."""
        _check_stored(persist_directory)
        return await cls.afrom_documents([], embedding, persist_directory, memory_options=memory_options, **kwargs)

    # --- writing -------------------------------------------------------------------------------------------------

    def add_documents(self, documents: Sequence[Document], ids: Sequence[str] | None = None) -> list[str]:
        """Store documents in one step; the same id replaces. Documents without an id get one from their content.

        Returns:
            The ids, one a document.
        """
        passages = to_passages(documents, ids, **self._keys())
        return self.memory.add(passages)

    async def aadd_documents(self, documents: Sequence[Document], ids: Sequence[str] | None = None) -> list[str]:
        """Do as `add_documents`, without blocking the event loop."""
        passages = to_passages(documents, ids, **self._keys())
        async with self._asking():
            return await self.memory.aadd(passages)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> bool:  # noqa: A002
        """Forget documents with their vectors, names and edges; ids that are not stored are ignored.

        Args:
            ids: Which to forget.
            filter: Forget those that it allows.

        Returns:
            True.

        Raises:
            ValueError: Neither ids nor a filter is given, or both are.
        """
        if (ids is None) == (filter is None):
            msg = "give ids or a filter to delete by"
            raise ValueError(msg)
        if filter is not None:
            self.memory.delete_where(filter)
        else:
            self.memory.delete(ids or [])
        return True

    async def adelete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> bool:  # noqa: A002
        """Do as `delete`, without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter=filter)

    def close(self) -> None:
        """Save and close the memory; a second call does nothing."""
        self.memory.close()

    async def aclose(self) -> None:
        """Do as `close`, without blocking the event loop."""
        await self.memory.aclose()

    # --- reading -------------------------------------------------------------------------------------------------

    def facts(self, question: str, k: int | None = None, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        """Return the sentences that link what the question names; see `HybridMemory.facts`."""
        return self.memory.facts(question, self._k(k), self._filter(filter))

    async def afacts(self, question: str, k: int | None = None, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        """Do as `facts`, without blocking the event loop."""
        async with self._asking(question):
            return await self.memory.afacts(question, self._k(k), self._filter(filter))

    def explain(self, question: str, k: int | None = None, filter: Filter | None = None) -> Explanation:  # noqa: A002
        """Return why the memory finds what it finds for a question; see `HybridMemory.explain`.

        A reranker, `mmr` and parents come after it and are not in it.
        """
        return self.memory.explain(question, self._k(k), self._filter(filter), self.route)

    async def aexplain(self, question: str, k: int | None = None, filter: Filter | None = None) -> Explanation:  # noqa: A002
        """Do as `explain`, without blocking the event loop."""
        async with self._asking(question):
            return await self.memory.aexplain(question, self._k(k), self._filter(filter), self.route)

    def as_agent_tool(
        self, name: str = "search_memory", description: str = "Find passages that answer a question."
    ) -> BaseTool:
        """Return a tool whose text names each source, and whose artifact holds the documents.

        Args:
            name: What the model calls it.
            description: Tells the model when to call it.
        """
        return retriever_tool(self, name, description)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,  # noqa: A002
        route: Route | None = None,
    ) -> list[Document]:
        wanted, allowed, taken = self._k(k), self._filter(filter), route or self.route
        fetch = self._fetch(wanted)
        while True:
            chosen = hits = self.memory.search(query, fetch, allowed, taken)
            if self.search_type == "mmr":
                chosen = self._diversified(hits, wanted)
            documents = self._documents(chosen)
            if self.reranker is not None and documents:
                ranked = self.reranker.compress_documents(documents, query, run_manager.get_child("rerank"))
                documents = merge_reranked(documents, ranked, self.provenance_key)
            if self.parent_store is None:
                return documents[:wanted]
            ids = parent_ids(documents, self.parent_id_key)
            parents = self._parents(documents, ids, self.parent_store.mget(ids), wanted)
            # Parts may share parents; but what a reranker dropped would be dropped again, and all be ranked for it.
            if len(parents) == wanted or len(hits) < fetch or len(documents) < len(chosen):
                return parents
            fetch *= 2

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,  # noqa: A002
        route: Route | None = None,
    ) -> list[Document]:
        wanted, allowed, taken = self._k(k), self._filter(filter), route or self.route
        fetch = self._fetch(wanted)
        async with self._asking(query):
            while True:
                chosen = hits = await self.memory.asearch(query, fetch, allowed, taken)
                if self.search_type == "mmr":
                    chosen = await asyncio.to_thread(self._diversified, hits, wanted)
                documents = self._documents(chosen)
                if self.reranker is not None and documents:
                    callbacks = run_manager.get_child("rerank")
                    ranked = await self.reranker.acompress_documents(documents, query, callbacks)
                    documents = merge_reranked(documents, ranked, self.provenance_key)
                if self.parent_store is None:
                    return documents[:wanted]
                ids = parent_ids(documents, self.parent_id_key)
                parents = self._parents(documents, ids, await self.parent_store.amget(ids), wanted)
                if len(parents) == wanted or len(hits) < fetch or len(documents) < len(chosen):
                    return parents
                fetch *= 2

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "hnswlib+networkx"
        params["ls_embedding_provider"] = embedder_name(self.memory.embedder)
        return params

    # --- inside --------------------------------------------------------------------------------------------------

    def _keys(self) -> dict[str, str | None]:
        return {"title_key": self.title_key, "score_key": self.score_key, "provenance_key": self.provenance_key}

    def _k(self, k: int | None) -> int:
        return self.k if k is None else positive("k", k)

    def _filter(self, asked: Filter | None) -> Filter | None:
        return both_filters(self.filter, asked)

    def _fetch(self, k: int) -> int:
        if self.search_type == "similarity" and self.reranker is None and self.parent_store is None:
            return k
        return max(k, self.fetch_k or max(4 * k, 20))

    def _diversified(self, hits: list[Hit], k: int) -> list[Hit]:
        # Several children may share a parent, so all of them are needed, in a good order.
        return diversify(self.memory, hits, len(hits) or 1 if self.parent_store is not None else k, self.lambda_mult)

    def _documents(self, hits: Sequence[Hit]) -> list[Document]:
        return [hit_to_document(hit, **self._keys()) for hit in hits]

    def _parents(
        self, children: list[Document], ids: list[str], parents: Sequence[Document | None], k: int
    ) -> list[Document]:
        return to_parents(
            children,
            dict(zip(ids, parents, strict=True)),
            k,
            parent_id_key=self.parent_id_key,
            score_key=self.score_key,
            provenance_key=self.provenance_key,
        )

    @asynccontextmanager
    async def _asking(self, question: str | None = None) -> AsyncIterator[None]:
        """Let the embedder's native async methods run on the caller's event loop."""
        embedder = self.memory.embedder
        if not isinstance(embedder, AsyncEmbedder):
            yield
            return
        # Nothing is embedded for an empty memory. Counting waits for a writer, so it is done off the loop.
        stored = 0 if question is None else await asyncio.to_thread(len, self.memory)
        async with embedder.acalling(question if stored else None):
            yield


def _check_stored(persist_directory: str | Path) -> None:
    if not is_address(persist_directory) and not Path(persist_directory).is_dir():
        msg = f"there is no memory at {persist_directory}; make one with from_documents(..., persist_directory=...)"
        raise FileNotFoundError(msg)
