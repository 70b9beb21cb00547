"""The semantic tier alone, as a LangChain vector store."""

# LangChain's signatures take any keyword; here an unknown one (a typing error) is refused instead of ignored.
# mypy: disable-error-code="override"

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from hybridmem_plugins.async_embedding import AsyncEmbedder, opened
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.langchain.documents import texts_to_documents, to_document, to_passages
from hybridmem_plugins.langchain.embedding import to_embedder
from hybridmem_plugins.langchain.retriever import HybridRetriever
from hybridmem_plugins.memory.filters import Filter
from hybridmem_plugins.memory.validation import check_text
from hybridmem_plugins.retrieval.nearest import Neighbour, nearest, nearest_diverse


class HnswVectorStore(VectorStore):
    """Vector store on hnswlib that keeps its promises: deletes, filters, ids, any k, many threads, no pickle.

    It is one view of a `HybridMemory`: the words and the graph behind `as_hybrid_retriever()` follow every change,
    those of `index()` included. Searching here uses the vectors only. Scores are cosine similarities.

    Setup:
        ```bash
        pip install 'hybridmem-plugins[langchain]'
        ```

    Key init args:
        embedding: LangChain `Embeddings`; None takes the bundled model.
        persist_directory: Folder, made when missing, opened when it holds a memory; None keeps it in memory only.
        memory: A memory to share instead.
        title_key: Key of the metadata that holds a document's title.
        memory_options: More arguments of `HybridMemory`.

    Instantiate:
        ```python
        from hybridmem_plugins.langchain import HnswVectorStore

        store = HnswVectorStore(embedding, persist_directory="memory")
        ```

    Add and delete documents:
        ```python
        ids = store.add_documents(documents)
        store.delete(ids)
        ```

    Search:
        ```python
        store.similarity_search("question", k=4, filter={"tenant": "a", "year": {"$gte": 2020}})
        store.similarity_search_with_score("question")
        ```

    Use as Retriever:
        ```python
        store.as_retriever(search_type="mmr", search_kwargs={"k": 4})
        store.as_hybrid_retriever(k=8)  # the graph as well
        ```
    """

    def __init__(
        self,
        embedding: Any = None,
        persist_directory: str | Path | None = None,
        *,
        memory: HybridMemory | None = None,
        title_key: str | None = "title",
        memory_options: Mapping[str, Any] | None = None,
    ) -> None:
        if memory is not None and (embedding is not None or persist_directory is not None or memory_options):
            msg = "give a memory, or an embedding and a folder to make one"
            raise ValueError(msg)
        self._embedding = embedding
        if memory is None:  # an empty memory is one too
            memory = HybridMemory(to_embedder(embedding), persist_directory, **(memory_options or {}))
        self.memory = memory
        self.title_key = title_key

    @classmethod
    def from_documents(cls, documents: Sequence[Document], embedding: Any = None, **kwargs: Any) -> Self:
        """Return a store that holds documents; `from_texts` says with which arguments."""
        return super().from_documents(list(documents), embedding, **kwargs)

    @classmethod
    async def afrom_documents(cls, documents: Sequence[Document], embedding: Any = None, **kwargs: Any) -> Self:
        """Do as `from_documents`, without blocking the event loop."""
        return await super().afrom_documents(list(documents), embedding, **kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Any = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a store that holds texts.

        Args:
            texts: What to store.
            embedding: LangChain `Embeddings`; None takes the bundled model.
            metadatas: One a text.
            ids: One a text.
            **kwargs: More arguments of the store.
        """
        store = cls(embedding, **kwargs)
        try:
            store.add_documents(texts_to_documents(texts, metadatas), ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Any = None,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do as `from_texts`, without blocking the event loop."""
        store = await opened(partial(cls, embedding, **kwargs))
        try:
            await store.aadd_documents(texts_to_documents(texts, metadatas), ids=ids)
        except BaseException:
            await store.aclose()
            raise
        return store

    @property
    def embeddings(self) -> Embeddings | None:
        """The embedding that was given; None for the bundled one."""
        return self._embedding if isinstance(self._embedding, Embeddings) else None

    def as_hybrid_retriever(self, **kwargs: Any) -> HybridRetriever:
        """Return a retriever that uses vectors, words and graph of the same memory.

        Args:
            **kwargs: Fields of `HybridRetriever`.
        """
        return HybridRetriever(memory=self.memory, title_key=self.title_key, **kwargs)

    def close(self) -> None:
        """Save and close the memory; a second call does nothing."""
        self.memory.close()

    async def aclose(self) -> None:
        """Do as `close`, without blocking the event loop."""
        await self.memory.aclose()

    # --- writing -------------------------------------------------------------------------------------------------

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Store texts in one step; the same id replaces; ids are derived from the content where they are missing.

        Args:
            texts: What to store.
            metadatas: One a text.
            ids: One a text.
            batch_size: Ignored; `index()` gives it.

        Returns:
            The ids, one a text.
        """
        return self.add_documents(texts_to_documents(texts, metadatas), ids=ids, batch_size=batch_size)

    def add_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str] | None = None, batch_size: int | None = None
    ) -> list[str]:
        """Store documents as `add_texts` stores texts."""
        passages = to_passages(documents, ids, title_key=self.title_key)
        return self.memory.add(passages)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Do as `add_texts`, without blocking the event loop."""
        return await self.aadd_documents(texts_to_documents(texts, metadatas), ids=ids)

    async def aadd_documents(
        self, documents: Sequence[Document], *, ids: Sequence[str] | None = None, batch_size: int | None = None
    ) -> list[str]:
        """Do as `add_documents`, without blocking the event loop."""
        passages = to_passages(documents, ids, title_key=self.title_key)
        embedder = self.memory.embedder
        if isinstance(embedder, AsyncEmbedder):
            async with embedder.acalling():
                return await self.memory.aadd(passages)
        return await self.memory.aadd(passages)

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> bool:  # noqa: A002
        """Forget documents from every tier; ids that are not stored are ignored.

        Args:
            ids: Which to forget.
            filter: Forget those that it allows.

        Returns:
            True.

        Raises:
            ValueError: Neither ids nor a filter is given, or both are.
        """
        return self.as_hybrid_retriever().delete(ids, filter=filter)

    async def adelete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> bool:  # noqa: A002
        """Do as `delete`, without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter=filter)

    # --- reading -------------------------------------------------------------------------------------------------

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the stored documents among these ids, in order."""
        return [to_document(passage) for passage in self.memory.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Do as `get_by_ids`, without blocking the event loop."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def similarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Return the documents nearest to a query, as they were stored.

        Args:
            query: Text.
            k: How many.
            filter: Metadata that documents must have: a dict in the memory's filter language, or a callable.
        """
        return self.similarity_search_by_vector(self._vector(query), k, filter)

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[tuple[Document, float]]:
        """Return the documents nearest to a query with their cosine similarities, higher being better."""
        return _scored(nearest(self.memory.store, self._vector(query), k, filter))

    def similarity_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Return the documents nearest to a vector."""
        return _plain(nearest(self.memory.store, embedding, k, filter))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Choose k of the `fetch_k` nearest documents so that they differ from each other.

        Args:
            query: Text.
            k: How many.
            fetch_k: Candidates.
            lambda_mult: 1 asks for relevance only, 0 for difference only.
            filter: As in `similarity_search`.
        """
        return self.max_marginal_relevance_search_by_vector(self._vector(query), k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search`, for a vector."""
        store = self.memory.store
        return _plain(nearest_diverse(store, embedding, k, filter, fetch_k=fetch_k, lambda_mult=lambda_mult))

    async def asimilarity_search(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Do as `similarity_search`, without blocking the event loop."""
        return await self.asimilarity_search_by_vector(await self._avector(query), k, filter)

    async def asimilarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[tuple[Document, float]]:
        """Do as `similarity_search_with_score`, without blocking the event loop."""
        vector = await self._avector(query)
        return _scored(await asyncio.to_thread(nearest, self.memory.store, vector, k, filter))

    async def asimilarity_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Do as `similarity_search_by_vector`, without blocking the event loop."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search`, without blocking the event loop."""
        vector = await self._avector(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: Sequence[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,  # noqa: A002
    ) -> list[Document]:
        """Do as `max_marginal_relevance_search_by_vector`, without blocking the event loop."""
        search = self.max_marginal_relevance_search_by_vector
        return await asyncio.to_thread(search, embedding, k, fetch_k, lambda_mult, filter)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # LangChain's relevance lies between 0 and 1; what points away from the question has none.
        return lambda similarity: min(1.0, max(0.0, similarity))

    def _vector(self, query: str) -> Any:
        return self.memory.embedder.embed_query(_checked(query))

    async def _avector(self, query: str) -> Any:
        embedder = self.memory.embedder
        if isinstance(embedder, AsyncEmbedder) and embedder.aquery is not None:
            return await embedder.aquery(_checked(query))
        return await asyncio.to_thread(embedder.embed_query, _checked(query))


def _checked(query: str) -> str:
    if not isinstance(query, str):
        msg = f"the query must be a string, not {type(query).__name__}"
        raise TypeError(msg)
    check_text(query, "the query")
    return query


def _plain(found: Sequence[Neighbour]) -> list[Document]:
    return [to_document(one.passage) for one in found]


def _scored(found: Sequence[Neighbour]) -> list[tuple[Document, float]]:
    return [(to_document(one.passage), one.similarity) for one in found]
