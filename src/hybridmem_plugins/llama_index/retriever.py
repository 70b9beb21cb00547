"""The hybrid memory as a LlamaIndex retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.ingestion import run_transformations
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, Document, IndexNode, NodeWithScore, QueryBundle, TransformComponent
from llama_index.core.settings import Settings
from llama_index.core.tools import FunctionTool
from llama_index_instrumentation import get_dispatcher

from hybridmem_plugins.async_embedding import AsyncEmbedder
from hybridmem_plugins.engines import is_address
from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.llama_index.documents import StoredDocuments
from hybridmem_plugins.llama_index.embedding import to_embedder
from hybridmem_plugins.llama_index.filters import to_filter
from hybridmem_plugins.llama_index.nodes import hit_to_node, to_passages, with_text
from hybridmem_plugins.llama_index.question import aasking, asking, question_of
from hybridmem_plugins.llama_index.stages import as_postprocessors, merge_reranked
from hybridmem_plugins.llama_index.tool import retriever_tool
from hybridmem_plugins.memory.validation import positive
from hybridmem_plugins.retrieval.diversity import diversify
from hybridmem_plugins.retrieval.explain import Explanation
from hybridmem_plugins.retrieval.model import Fact, Hit, Route

dispatcher = get_dispatcher(__name__)


class HybridRetriever(BaseRetriever):
    """Retriever over a hybrid memory: finds by meaning (hnswlib), by words (BM25) and by relation (networkx graph).

    The graph is built from titles, links and names without a language model. Scores are between 0 and 1, higher is
    better; `node.metadata["hybridmem"]`, which models do not see, says why each node was found.

    Args:
        memory: What is searched; may be shared with other retrievers.
        similarity_top_k: How many nodes to return.
        filters: `MetadataFilters`, nested or not; or a dict or callable as `HybridMemory.search` takes it.
        route: `auto`, `semantic`, `relational`, `both`, or `vector` for the vectors alone.
        reranker: One `BaseNodePostprocessor` or several in a row, which see `fetch_k` candidates.
        search_type: `mmr` chooses among `fetch_k` candidates by maximal marginal relevance.
        lambda_mult: For `mmr`: 1 asks for relevance only, 0 for difference only.
        fetch_k: Candidates for `mmr` and the reranker; None takes four times `similarity_top_k`, at least 20.
        transformations: Cut documents into nodes; None takes those of `Settings`.
        title_key: Key of the metadata that holds a node's title; None means that there are no titles.
        callback_manager: See `BaseRetriever`.
        object_map: See `BaseRetriever`.
        objects: See `BaseRetriever`.
        verbose: See `BaseRetriever`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: `similarity_top_k` or `fetch_k` below 1, or an unknown `search_type`.

    Examples:
        `pip install 'hybridmem-plugins[llama-index]'`

        ```python
        from hybridmem_plugins.llama_index import HybridRetriever

        retriever = HybridRetriever.from_nodes(nodes, persist_dir="memory", similarity_top_k=8)
        retriever.retrieve("Who designed the machine that Ada Lovelace wrote for?")
        query_engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
        ```
    """

    def __init__(
        self,
        memory: HybridMemory,
        similarity_top_k: int = 8,
        filters: Any = None,
        route: Route = "auto",
        reranker: BaseNodePostprocessor | Sequence[BaseNodePostprocessor] | None = None,
        search_type: Literal["similarity", "mmr"] = "similarity",
        lambda_mult: float = 0.5,
        fetch_k: int | None = None,
        transformations: Sequence[TransformComponent] | None = None,
        title_key: str | None = "title",
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
    ) -> None:
        if not isinstance(memory, HybridMemory):
            msg = f"memory must be a HybridMemory, not {type(memory).__name__}"
            raise TypeError(msg)
        if search_type not in ("similarity", "mmr"):
            msg = f"search_type must be 'similarity' or 'mmr', not {search_type!r}"
            raise ValueError(msg)
        super().__init__(callback_manager, object_map, objects, verbose)
        self.memory = memory
        self.similarity_top_k = similarity_top_k
        self.filters = filters
        to_filter(filters)
        self.route: Route = route
        self.reranker = as_postprocessors(reranker)
        self.search_type = search_type
        self.lambda_mult = lambda_mult
        self.fetch_k = None if fetch_k is None else positive("fetch_k", fetch_k)
        self.transformations = transformations
        self.title_key = title_key
        self._embeds = isinstance(memory.embedder, AsyncEmbedder)
        self._documents = StoredDocuments(memory)

    # --- making one ----------------------------------------------------------------------------------------------

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        embed_model: Any = None,
        persist_dir: str | Path | None = None,
        similarity_top_k: int = 8,
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Store nodes in a memory and return a retriever over it.

        Args:
            nodes: What to store; may be empty.
            embed_model: A LlamaIndex `BaseEmbedding`; None takes the bundled model, whatever `Settings` says.
            persist_dir: Folder of the memory, or an engine's address; made when missing, added to when it holds one;
                None keeps it in memory only.
            similarity_top_k: How many nodes to return.
            memory_options: More arguments of `HybridMemory`, such as `extractor`, `aliases` or `router`.
            **kwargs: More arguments of the retriever.

        Raises:
            TypeError: An argument has the wrong type, or metadata is not JSON.
            ValueError: Empty text or an id given twice.
            MemoryFormatError: The folder is no memory.
            EmbedderMismatchError: The memory was made with another embedding.
        """
        retriever = cls._opened(embed_model, persist_dir, memory_options, similarity_top_k=similarity_top_k, **kwargs)
        with closing_on_error(retriever):
            retriever.insert_nodes(nodes)
        return retriever

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Document],
        embed_model: Any = None,
        persist_dir: str | Path | None = None,
        similarity_top_k: int = 8,
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Cut documents into nodes, store these in a memory and return a retriever over it.

        Args:
            documents: What to store; one whose id is stored already replaces it where it differs. Those without text
                are left out and logged.
            embed_model: As in `from_nodes`.
            persist_dir: As in `from_nodes`.
            similarity_top_k: How many nodes to return.
            memory_options: As in `from_nodes`.
            **kwargs: More arguments of the retriever, such as `transformations`.
        """
        retriever = cls._opened(embed_model, persist_dir, memory_options, similarity_top_k=similarity_top_k, **kwargs)
        with closing_on_error(retriever):
            retriever.refresh_ref_docs(documents)
        return retriever

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | Path,
        embed_model: Any = None,
        similarity_top_k: int = 8,
        memory_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open a memory that was stored before.

        Args:
            persist_dir: Its folder.
            embed_model: The model that it was made with.
            similarity_top_k: How many nodes to return.
            memory_options: As in `from_nodes`.
            **kwargs: More arguments of the retriever.

        Raises:
            FileNotFoundError: There is no such folder.
            MemoryFormatError: The folder is no memory.
            EmbedderMismatchError: The memory was made with another embedding.
        """
        if not is_address(persist_dir) and not Path(persist_dir).is_dir():
            msg = f"there is no memory at {persist_dir}; make one with from_nodes(..., persist_dir=...)"
            raise FileNotFoundError(msg)
        return cls.from_nodes([], embed_model, persist_dir, similarity_top_k, memory_options, **kwargs)

    @classmethod
    def _opened(
        cls, embed_model: Any, persist_dir: str | Path | None, options: Mapping[str, Any] | None, **kwargs: Any
    ) -> Self:
        memory = HybridMemory(to_embedder(embed_model), persist_dir, **(options or {}))
        try:
            return cls(memory, **kwargs)
        except BaseException:
            memory.close()
            raise

    @property
    def similarity_top_k(self) -> int:
        """How many nodes to return."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, value: int) -> None:
        self._similarity_top_k = positive("similarity_top_k", value)

    # --- writing -------------------------------------------------------------------------------------------------

    def insert_nodes(self, nodes: Sequence[BaseNode]) -> None:
        """Store nodes in one step; a node whose id is stored already is replaced.

        Nodes that carry embeddings keep them where the retriever was given an `embed_model`, which must be the one
        that made them.
        """
        self.memory.add(to_passages(nodes, self.title_key), self._vectors(nodes))
        self._remember_objects(nodes)

    async def ainsert_nodes(self, nodes: Sequence[BaseNode]) -> None:
        """Do as `insert_nodes`, without blocking the event loop."""
        async with aasking(self.memory):
            await self.memory.aadd(to_passages(nodes, self.title_key), self._vectors(nodes))
        self._remember_objects(nodes)

    def delete_nodes(self, node_ids: Sequence[str]) -> None:
        """Forget nodes by id; others are ignored."""
        self.memory.delete(node_ids)

    async def adelete_nodes(self, node_ids: Sequence[str]) -> None:
        """Do as `delete_nodes`, without blocking the event loop."""
        await self.memory.adelete(node_ids)

    def delete_ref_doc(self, ref_doc_id: str) -> None:
        """Forget all nodes of a document, with their vectors, names and edges; nothing where it is not stored."""
        self._documents.delete(ref_doc_id)

    async def adelete_ref_doc(self, ref_doc_id: str) -> None:
        """Do as `delete_ref_doc`, without blocking the event loop."""
        await asyncio.to_thread(self._documents.delete, ref_doc_id)

    def refresh_ref_docs(self, documents: Sequence[Document]) -> list[bool]:
        """Store documents that are new or have changed, and forget what their earlier versions said.

        What has no text, such as an empty file, is left out and logged.

        Returns:
            For each document whether it was new or had changed; one without text always is.
        """
        changed = self._documents.changed(documents)
        due = [document for document, is_due in zip(documents, changed, strict=True) if is_due]
        nodes = with_text(run_transformations(due, self._transformations()))
        self.insert_nodes(nodes)
        self._documents.keep_only(due, nodes)
        return changed

    async def arefresh_ref_docs(self, documents: Sequence[Document]) -> list[bool]:
        """Do as `refresh_ref_docs`, without blocking the event loop."""
        changed = await asyncio.to_thread(self._documents.changed, documents)
        due = [document for document, is_due in zip(documents, changed, strict=True) if is_due]
        # Most transformations only have a blocking form, which theirs async one calls.
        nodes = with_text(await asyncio.to_thread(run_transformations, due, self._transformations()))
        await self.ainsert_nodes(nodes)
        await asyncio.to_thread(self._documents.keep_only, due, nodes)
        return changed

    def close(self) -> None:
        """Save and close the memory; a second call does nothing."""
        self.memory.close()

    async def aclose(self) -> None:
        """Do as `close`, without blocking the event loop."""
        await self.memory.aclose()

    # --- reading -------------------------------------------------------------------------------------------------

    def facts(self, question: str, k: int | None = None) -> list[Fact]:
        """Return the sentences that link what the question names; see `HybridMemory.facts`."""
        return self.memory.facts(question, k or self.similarity_top_k, to_filter(self.filters))

    async def afacts(self, question: str, k: int | None = None) -> list[Fact]:
        """Do as `facts`, without blocking the event loop."""
        async with aasking(self.memory, question):
            return await self.memory.afacts(question, k or self.similarity_top_k, to_filter(self.filters))

    def explain(self, question: str, k: int | None = None) -> Explanation:
        """Return why the memory finds what it finds for a question; see `HybridMemory.explain`.

        Postprocessors and `mmr` come after it and are not in it.
        """
        return self.memory.explain(question, k or self.similarity_top_k, to_filter(self.filters), self.route)

    async def aexplain(self, question: str, k: int | None = None) -> Explanation:
        """Do as `explain`, without blocking the event loop."""
        async with aasking(self.memory, question):
            return await self.memory.aexplain(question, k or self.similarity_top_k, to_filter(self.filters), self.route)

    def as_tool(
        self, name: str = "search_memory", description: str = "Find passages that answer a question."
    ) -> FunctionTool:
        """Return a tool for agents, whose one argument is `query` and whose text names each source.

        Args:
            name: What the model calls it.
            description: Tells the model when to call it.
        """
        return retriever_tool(self, name, description)

    def as_query_engine(self, llm: Any = None, **kwargs: Any) -> BaseQueryEngine:
        """Return a `RetrieverQueryEngine` over this retriever.

        Args:
            llm: Answers; None takes that of `Settings`.
            **kwargs: More arguments of `RetrieverQueryEngine.from_args`.
        """
        from llama_index.core.query_engine import RetrieverQueryEngine

        return RetrieverQueryEngine.from_args(self, llm=llm, **kwargs)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question = question_of(query_bundle)
        with asking(self.memory, question, query_bundle):
            hits = self.memory.search(question, self._fetch(), to_filter(self.filters), self.route)
        if self.search_type == "mmr":
            hits = self._diversified(hits)
        return self._reranked(self._candidates(hits), question)[: self.similarity_top_k]

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question = question_of(query_bundle)
        async with aasking(self.memory, question, query_bundle):
            hits = await self.memory.asearch(question, self._fetch(), to_filter(self.filters), self.route)
        if self.search_type == "mmr":
            hits = await asyncio.to_thread(self._diversified, hits)
        candidates = self._candidates(hits)
        return (await self._areranked(candidates, question))[: self.similarity_top_k]

    # --- inside --------------------------------------------------------------------------------------------------

    def _fetch(self) -> int:
        k = self.similarity_top_k
        return k if self.search_type == "similarity" and not self.reranker else max(k, self.fetch_k or max(4 * k, 20))

    def _diversified(self, hits: list[Hit]) -> list[Hit]:
        return diversify(self.memory, hits, self.similarity_top_k, self.lambda_mult)

    def _candidates(self, hits: list[Hit]) -> list[NodeWithScore]:
        return [hit_to_node(hit, self.title_key) for hit in hits]

    def _reranked(self, candidates: list[NodeWithScore], question: str) -> list[NodeWithScore]:
        nodes = candidates
        for postprocessor in self.reranker:
            nodes = postprocessor.postprocess_nodes(list(nodes), query_bundle=QueryBundle(question))
        return merge_reranked(candidates, nodes) if self.reranker else nodes

    async def _areranked(self, candidates: list[NodeWithScore], question: str) -> list[NodeWithScore]:
        nodes = candidates
        for postprocessor in self.reranker:
            nodes = await postprocessor.apostprocess_nodes(list(nodes), query_bundle=QueryBundle(question))
        return merge_reranked(candidates, nodes) if self.reranker else nodes

    def _vectors(self, nodes: Sequence[BaseNode]) -> list[list[float]] | None:
        if not self._embeds or not nodes:
            return None
        vectors = [node.embedding for node in nodes if isinstance(node, BaseNode) and node.embedding is not None]
        return vectors if len(vectors) == len(nodes) else None

    def _remember_objects(self, nodes: Sequence[BaseNode]) -> None:
        for node in nodes:
            if isinstance(node, IndexNode) and node.obj is not None:
                self.object_map[node.index_id] = node.obj

    def _transformations(self) -> list[TransformComponent]:
        return list(Settings.transformations if self.transformations is None else self.transformations)


@contextmanager
def closing_on_error(retriever: HybridRetriever) -> Iterator[None]:
    """Close a retriever's memory when filling it fails."""
    try:
        yield
    except BaseException:
        retriever.close()
        raise
