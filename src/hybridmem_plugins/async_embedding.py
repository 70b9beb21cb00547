"""An embedder whose model is awaited on the event loop while a search waits for it in a worker thread."""

from __future__ import annotations

import asyncio
import dis
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Vector = Sequence[float]

# Seconds after which a waiting thread looks whether the event loop still runs.
_LOOK = 1.0
# What `await`, `async for` and `async with` are compiled to.
_GIVING_WAY = ("GET_AWAITABLE", "GET_ANEXT", "BEFORE_ASYNC_WITH")


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who asks: its event loop (None outside of one), and the question vectors that it has already.

    Attributes:
        embedder: The one that is asked; None is any, such as that of a memory which is being opened.
    """

    embedder: AsyncEmbedder | None
    loop: asyncio.AbstractEventLoop | None
    vectors: Mapping[str, Vector] = field(default_factory=dict)


_caller: ContextVar[_Caller | None] = ContextVar("hybridmem_embedding_caller", default=None)


class AsyncEmbedder:
    """Fulfils the `Embedder` protocol with a model that may have native async methods.

    Memory and retrieval are synchronous and run in worker threads for async callers. Inside `calling(loop)`, such a
    thread hands its texts to the model's async methods on the caller's event loop and waits, so that a model behind
    a network is asked through the client that its user set up, for many questions at a time.

    Args:
        name: Recorded in a memory to recognise the embedder.
        documents: Embeds texts.
        query: Embeds a question.
        adocuments: Native async form of `documents`; None where there is none.
        aquery: Native async form of `query`; None where there is none.
    """

    def __init__(
        self,
        name: str,
        documents: Callable[[list[str]], Any],
        query: Callable[[str], Any],
        adocuments: Callable[[list[str]], Awaitable[Any]] | None = None,
        aquery: Callable[[str], Awaitable[Any]] | None = None,
    ) -> None:
        self.name = name
        self._documents = documents
        self._query = query
        self._adocuments = adocuments
        self.aquery = aquery

    def embed_documents(self, texts: list[str]) -> Any:
        """Return one vector a text."""
        caller = self._caller()
        if caller is None or caller.loop is None or self._adocuments is None:
            return self._documents(texts)
        return _wait(self._adocuments(texts), caller.loop)

    def embed_query(self, text: str) -> Any:
        """Return the vector of a question."""
        caller = self._caller()
        if caller is not None and text in caller.vectors:
            return caller.vectors[text]
        if caller is None or caller.loop is None or self.aquery is None:
            return self._query(text)
        return _wait(self.aquery(text), caller.loop)

    @contextmanager
    def calling(
        self, loop: asyncio.AbstractEventLoop | None = None, vectors: Mapping[str, Vector] | None = None
    ) -> Iterator[None]:
        """Embed on an event loop, and take these question vectors as known, in this context.

        Args:
            loop: The running loop of an async caller; searches must then run in another thread.
            vectors: Vectors by question.
        """
        token = _caller.set(_Caller(self, loop, vectors or {}))
        try:
            yield
        finally:
            _caller.reset(token)

    @asynccontextmanager
    async def acalling(
        self, question: str | None = None, known: Mapping[str, Vector] | None = None
    ) -> AsyncIterator[None]:
        """Do as `calling` on the running loop, with a question embedded before a thread is taken up by its search.

        Args:
            question: What will be asked; None where nothing will.
            known: Vectors by question.
        """
        vectors = dict(known or {})
        if self.aquery is not None and isinstance(question, str) and question.strip() and question not in vectors:
            vectors[question] = await self.aquery(question)
        with self.calling(asyncio.get_running_loop(), vectors):
            yield

    def _caller(self) -> _Caller | None:
        caller = _caller.get()
        return caller if caller is not None and caller.embedder in (None, self) else None


async def opened(make: Callable[[], T]) -> T:
    """Make something over a memory in a worker thread; what its `AsyncEmbedder` embeds meanwhile is awaited here."""
    token = _caller.set(_Caller(None, asyncio.get_running_loop()))
    try:
        return await asyncio.to_thread(make)
    finally:
        _caller.reset(token)


def awaits(method: Callable[..., Any]) -> bool:
    """Return whether an async method gives way to others, rather than only calling its blocking sibling.

    >>> async def pretends(text):
    ...     return len(text)
    >>> async def waits(text):
    ...     await asyncio.sleep(0)
    >>> awaits(pretends), awaits(waits)
    (False, True)
    """
    code = getattr(inspect.unwrap(method), "__code__", None)
    if code is None:
        return False
    return any(instruction.opname in _GIVING_WAY for instruction in dis.get_instructions(code))


def _wait(awaitable: Awaitable[T], loop: asyncio.AbstractEventLoop) -> T:
    async def run() -> T:
        return await awaitable

    future: Future[T] = asyncio.run_coroutine_threadsafe(run(), loop)
    while True:
        try:
            return future.result(_LOOK)
        except TimeoutError:
            if future.done():  # The model's own error.
                raise
            if loop.is_closed():
                msg = "the event loop was closed while a search waited for the embedder"
                raise RuntimeError(msg) from None
