"""Anything that finds passages, seen in one way: our memory, a retriever of a framework, or a function."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from hybridmem_plugins.hybrid_memory import HybridMemory
from hybridmem_plugins.memory.filters import Filter, both_filters
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.retrieval.model import Fact, Hit, Route

PROVENANCE_KEY = "hybridmem"
"""Where our retrievers for the frameworks write why a document was found."""


@runtime_checkable
class Retriever(Protocol):
    """What the system asks of whatever finds passages; `HybridMemory` is one."""

    def search(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        """Return at most k passages, best first."""
        ...

    async def asearch(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        """Do as `search`, without blocking the event loop."""
        ...


def as_retriever(source: Any) -> Retriever:
    """Return whatever finds passages as a `Retriever`.

    Args:
        source: A `HybridMemory`, an object with `search` and `asearch`, a LangChain retriever or Runnable (`invoke`), a
            LlamaIndex retriever (`retrieve`), or a function from a question to passages, hits or texts.

    Raises:
        TypeError: It is none of these.
    """
    if _own_beneath(source) is None and isinstance(source, Retriever):
        return source
    if any(callable(getattr(source, name, None)) for name in ("invoke", "retrieve")) or callable(source):
        return _Foreign(source)
    msg = (
        f"a {type(source).__name__} finds no passages. Give a HybridMemory, a LangChain retriever (invoke), a "
        "LlamaIndex retriever (retrieve), or a function from a question to passages."
    )
    raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class _Own:
    """Our own retriever for a framework, beneath what is around it.

    Attributes:
        retriever: What is asked for facts.
        bound: Keywords that a wrapper gives to every call, unless the call has them.
        configured: Whether the configuration of a call made it, which then says how many passages to find.
    """

    retriever: Any
    bound: Mapping[str, Any]
    configured: bool

    @property
    def memory(self) -> HybridMemory:
        memory: HybridMemory = self.retriever.memory
        return memory


def _own_beneath(source: Any) -> _Own | None:
    """Return our own retriever that a call now would ask; None where a wrapper hides what it asks.

    Its form of a call is kept, with its filter, reranker and more. The type is asked because LangChain's wrappers hand
    on every attribute, but may hold a filter of their own that `facts` of the retriever within does not see.
    """
    made = _configured(source)
    inner, bound = _unbound(made)
    ours = isinstance(getattr(inner, "memory", None), HybridMemory) and callable(getattr(type(inner), "explain", None))
    return _Own(inner, bound, made is not source) if ours else None


def _configured(source: Any) -> Any:
    """Return what LangChain's `configurable_fields` makes of a retriever for the call in whose context this runs."""
    return source.prepare()[0] if {"default", "fields"} <= getattr(source, "__dict__", {}).keys() else source


def _unbound(source: Any) -> tuple[Any, dict[str, Any]]:
    """Return what LangChain's `bind`, `with_config` or `with_retry` is around, and the keywords bound to it."""
    fields = getattr(source, "__dict__", {})  # its own: such a wrapper hands on all other attributes
    if not {"bound", "kwargs"} <= fields.keys():
        return source, {}
    inner, bound = _unbound(fields["bound"])
    return inner, {**bound, **fields["kwargs"]}


class _Foreign:
    """A retriever of a framework, or a function.

    Args:
        source: What is asked for passages.
        behind: Where our own retriever is looked for; None looks in the source.
    """

    def __init__(self, source: Any, behind: Any = None) -> None:
        self.source, self._behind = source, source if behind is None else behind
        self._title_key = str(getattr(source, "title_key", None) or "title")
        self._form = next((n for n in ("invoke", "retrieve") if callable(getattr(source, n, None))), "")
        self._call: Callable[..., Any] = getattr(source, self._form) if self._form else source
        self._acall: Callable[..., Any] | None = getattr(source, f"a{self._form}", None) if self._form else None

    @property
    def memory(self) -> HybridMemory | None:
        own = _own_beneath(self._behind)
        return None if own is None else own.memory

    def search(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        found = self._call(question, **self._options(k, filter, route))
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            msg = "the retriever is async: use `aquery` or `astream`"
            raise TypeError(msg)
        return self._hits(found)[:k]

    async def asearch(
        self,
        question: str,
        k: int = 8,
        filter: Filter | None = None,  # noqa: A002
        route: Route = "auto",
    ) -> list[Hit]:
        options = self._options(k, filter, route)
        if self._acall is not None:
            found = await self._acall(question, **options)
        elif inspect.iscoroutinefunction(self._call):
            found = await self._call(question, **options)
        else:
            found = await asyncio.to_thread(self._call, question, **options)
            found = await found if inspect.isawaitable(found) else found
        return self._hits(found)[:k]

    def _hits(self, found: Any) -> list[Hit]:
        # Letters of a text and keys of a dict would pass for passages.
        if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
            msg = f"the retriever returned a {type(found).__name__}; it must return a list of documents, nodes or texts"
            raise TypeError(msg)
        return [to_hit(one, self._title_key) for one in found]

    def facts(self, question: str, k: int = 8, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        own = _own_beneath(self._behind)
        found: list[Fact] = [] if own is None else own.retriever.facts(question, k, **_allowed(own, filter))
        return found

    async def afacts(self, question: str, k: int = 8, filter: Filter | None = None) -> list[Fact]:  # noqa: A002
        own = _own_beneath(self._behind)
        found: list[Fact] = [] if own is None else await own.retriever.afacts(question, k, **_allowed(own, filter))
        return found

    def _options(self, k: int, filter: Filter | None, route: Route) -> dict[str, Any]:  # noqa: A002
        own = _own_beneath(self._behind)
        if own is not None and self._form == "invoke":
            wanted = {} if own.configured else {"k": own.bound.get("k", k)}
            return {**wanted, **({} if route == "auto" else {"route": route}), **_allowed(own, filter)}
        if filter is not None or route != "auto":
            what = "filter" if filter is not None else "route"
            msg = (
                f"this retriever takes no {what} for a call. Set it in the retriever itself (in LangChain for each "
                "call by `configurable_fields`), or use a HybridMemory."
            )
            raise ValueError(msg)
        return {}


def _allowed(own: _Own, filter: Filter | None) -> dict[str, Filter]:  # noqa: A002
    both = both_filters(own.bound.get("filter"), filter)
    return {} if both is None else {"filter": both}


def to_hit(found: Any, title_key: str = "title") -> Hit:
    """Return a found passage as a hit: a `Hit`, `Passage`, text, LangChain document or LlamaIndex node.

    Args:
        found: The passage.
        title_key: Key of the metadata that holds the title of a document or node.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(found, Hit):
        return found
    if isinstance(found, str):
        return Hit(Passage(found), 0.0)
    if isinstance(found, Passage):
        return Hit(found, 0.0)
    if hasattr(found, "page_content"):
        why = found.metadata.get(PROVENANCE_KEY)
        # Beside our own reasons stands our own score; `score` may be something of the user's.
        score = why["score"] if isinstance(why, Mapping) and "score" in why else found.metadata.get("score")
        return _hit(found.page_content, found.metadata, getattr(found, "id", None), score, title_key)
    node = getattr(found, "node", found)
    if callable(getattr(node, "get_content", None)):
        return _hit(node.get_content(), node.metadata, node.node_id, getattr(found, "score", None), title_key)
    msg = f"the retriever returned a {type(found).__name__}; it must return documents, nodes, passages, hits or texts"
    raise TypeError(msg)


def _hit(text: str, metadata: Mapping[str, Any], identity: str | None, score: Any, title_key: str) -> Hit:
    title = metadata.get(title_key) or metadata.get("file_name")
    provenance = metadata.get(PROVENANCE_KEY)
    # A title comes back as `title`; under a key of the user's own it stays where the user looks for it.
    ours = {PROVENANCE_KEY, "title"} if title_key == "title" else {PROVENANCE_KEY}
    kept = {key: value for key, value in metadata.items() if key not in ours}
    return Hit(
        Passage(text, title=str(title) if title else None, id=identity, metadata=kept),
        float(score) if isinstance(score, Real) and math.isfinite(score) else 0.0,
        dict(provenance) if isinstance(provenance, Mapping) else {},
    )


def facts_about(retriever: Retriever, question: str, k: int, filter: Filter | None) -> Sequence[Fact]:  # noqa: A002
    """Return the structural facts where a retriever has any."""
    facts = getattr(retriever, "facts", None)
    return facts(question, k, filter) if callable(facts) and k > 0 else []


async def afacts_about(
    retriever: Retriever,
    question: str,
    k: int,
    filter: Filter | None,  # noqa: A002
) -> Sequence[Fact]:
    """Do as `facts_about`, without blocking the event loop."""
    afacts = getattr(retriever, "afacts", None)
    if not callable(afacts):
        return await asyncio.to_thread(facts_about, retriever, question, k, filter)
    found: Sequence[Fact] = await afacts(question, k, filter) if k > 0 else []
    return found
