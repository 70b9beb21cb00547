"""What a query asks, and the vector that may come with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
from llama_index.core.schema import QueryBundle

from hybridmem_plugins.async_embedding import AsyncEmbedder
from hybridmem_plugins.hybrid_memory import HybridMemory

# `RetrieverTool.call(input="what")` asks its retriever "\ninput is what\n".
_WRAPPED = re.compile(r"\n(?:input|query|query_str|question) is (.*)\n", re.DOTALL)


def question_of(query_bundle: QueryBundle) -> str:
    r"""Return the question of a query, without what a `RetrieverTool` wraps around it.

    >>> question_of(QueryBundle("\ninput is Who was Ada?\n"))
    'Who was Ada?'
    """
    text = query_bundle.query_str
    wrapped = _WRAPPED.fullmatch(text) if isinstance(text, str) else None
    if wrapped is not None:
        text = wrapped[1]
    return text.strip() if isinstance(text, str) else text


@contextmanager
def asking(memory: HybridMemory, question: str, query_bundle: QueryBundle) -> Iterator[None]:
    """Let a search in this context use the vector that came with a query.

    That is its `embedding`, unless another model made it (one of another length), or the mean over its
    `custom_embedding_strs`; only where the memory has a LlamaIndex model, which makes such vectors.

    Args:
        memory: What will be searched.
        question: What will be asked.
        query_bundle: The query that the question comes from.
    """
    embedder = memory.embedder
    if not isinstance(embedder, AsyncEmbedder):
        yield
        return
    vectors = _given(memory, question, query_bundle)
    texts = _instead(query_bundle)
    if texts and not vectors:
        vectors = {question: _mean([embedder.embed_query(text) for text in texts])}
    with embedder.calling(vectors=vectors):
        yield


@asynccontextmanager
async def aasking(
    memory: HybridMemory, question: str | None = None, query_bundle: QueryBundle | None = None
) -> AsyncIterator[None]:
    """Do as `asking`, and let the model's native async methods run on the caller's event loop.

    Args:
        memory: What will be searched or added to.
        question: What will be asked; None where nothing will.
        query_bundle: The query that the question comes from.
    """
    embedder = memory.embedder
    if not isinstance(embedder, AsyncEmbedder):
        yield
        return
    vectors: dict[str, Any] = {}
    if question is not None and query_bundle is not None:
        vectors = _given(memory, question, query_bundle)
        texts = _instead(query_bundle)
        if texts and not vectors:
            vectors = {question: _mean(await asyncio.gather(*(_embedded(embedder, text) for text in texts)))}
    # Nothing is embedded for an empty memory. Counting waits for a writer, so it is done off the loop.
    stored = 0 if question is None else await asyncio.to_thread(len, memory)
    async with embedder.acalling(question if stored else None, vectors):
        yield


def _given(memory: HybridMemory, question: str, query_bundle: QueryBundle) -> dict[str, Any]:
    index, given = memory.store.vectors, query_bundle.embedding
    return {question: given} if given is not None and index is not None and len(given) == index.dimension else {}


def _instead(query_bundle: QueryBundle) -> list[str]:
    """Return the texts to embed in place of the question, such as the answers that HyDE makes up."""
    return [text for text in query_bundle.custom_embedding_strs or [] if text.strip()]


async def _embedded(embedder: AsyncEmbedder, text: str) -> Any:
    return await (asyncio.to_thread(embedder.embed_query, text) if embedder.aquery is None else embedder.aquery(text))


def _mean(vectors: Sequence[Any]) -> Any:
    return np.mean([np.asarray(vector, dtype=np.float64) for vector in vectors], axis=0)
