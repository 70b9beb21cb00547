"""The system as a LangChain Runnable: translation only, `HybridMemorySystem` does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from functools import reduce
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import AddableDict

from hybridmem_plugins.generation import LocalModel
from hybridmem_plugins.langchain.chat_model import FinetunedChatModel
from hybridmem_plugins.langchain.documents import to_document
from hybridmem_plugins.langchain.finetuned import FinetunedChat
from hybridmem_plugins.memory.filters import Filter, both_filters
from hybridmem_plugins.retrieval.model import Route
from hybridmem_plugins.system.answer import Answer, Source
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem

ChainInput = str | Mapping[str, Any]

_MISNAMED = {"filters": "filter", "where": "filter", "routes": "route"}


class HybridChain(Runnable[ChainInput, dict[str, Any]]):
    """Answers a question from a retriever's documents, cites them, and abstains with a reason.

    Takes a question, or a dict with `input` (or `question`). Over a hybrid memory, `filter` and `route` may be keys of
    that dict or keywords of the call; of two filters both hold, and a route of the call comes before one of the dict.
    Gives a dict: `input`, `answer`, `reply` (what the model wrote, before it was checked), `context` (documents in the
    order of their numbers), `facts`, `citations`, `abstained`, `reason`, `faithful`, `route`, `timings`.

    The metadata of a document in `context` has `number`, `cited`, `kind` and `score`, where they are not keys of the
    user's own, and all of them under `hybridmem`, beside why it was found.

    Streamed, `reply` comes in pieces; the rest, and with it the checked `answer`, comes last.

    Args:
        system: What answers.
    """

    def __init__(self, system: HybridMemorySystem) -> None:
        self.system = system

    def invoke(self, input: ChainInput, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Answer one question."""
        return self._call_with_config(self._answer, input, config, **kwargs)

    async def ainvoke(self, input: ChainInput, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Answer one question without blocking the event loop."""
        return await self._acall_with_config(self._aanswer, input, config, **kwargs)

    def stream(
        self,
        input: ChainInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Answer one question piece by piece; the pieces add up to what `invoke` returns."""
        yield from self.transform(iter([input]), config, **kwargs)

    def transform(
        self,
        input: Iterator[ChainInput],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[dict[str, Any]]:
        """Answer one question, which may come in pieces itself, piece by piece."""
        yield from self._transform_stream_with_config(input, self._pieces, config, **kwargs)

    async def astream(
        self,
        input: ChainInput,  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """Do as `stream`, without blocking the event loop."""

        async def one() -> AsyncIterator[ChainInput]:
            yield input

        async for piece in self.atransform(one(), config, **kwargs):
            yield piece

    async def atransform(
        self,
        input: AsyncIterator[ChainInput],  # noqa: A002
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[dict[str, Any]]:
        """Do as `transform`, without blocking the event loop."""
        async for piece in self._atransform_stream_with_config(input, self._apieces, config, **kwargs):
            yield piece

    # Calls inside run in the context of this one, so that callbacks reach the retriever and the model. `read_input`
    # knows the keywords that a call may take, so that a misspelt one is refused and not ignored.

    def _answer(self, asked: ChainInput, **given: Any) -> dict[str, Any]:
        question, options = read_input(asked, **given)
        return to_output(self.system.query(question, **options))

    async def _aanswer(self, asked: ChainInput, **given: Any) -> dict[str, Any]:
        question, options = read_input(asked, **given)
        return to_output(await self.system.aquery(question, **options))

    def _pieces(self, asked: Iterator[ChainInput], **given: Any) -> Iterator[dict[str, Any]]:
        question, options = read_input(reduce(_added, asked, None), **given)
        for piece in self.system.stream(question, **options):
            yield _piece(piece)

    async def _apieces(self, asked: AsyncIterator[ChainInput], **given: Any) -> AsyncIterator[dict[str, Any]]:
        question, options = read_input(reduce(_added, [one async for one in asked], None), **given)
        async for piece in self.system.astream(question, **options):
            yield _piece(piece)


def create_hybrid_chain(retriever: Any, model: Any = None, **options: Any) -> HybridChain:
    """Make a chain that answers from a retriever's documents and cites them.

    Args:
        retriever: Any LangChain retriever, `HybridRetriever` among them, or a `HybridMemory`.
        model: Any LangChain chat model, LLM or Runnable over messages; None is the shipped fine-tuned model, on this
            machine. A `FinetunedChatModel` answers with its own options, but where each passage is read alone
            (`reading="each"`, and the shipped adapter unless told otherwise) it always takes the likeliest token, as
            its choice among them was fitted so; callbacks see that as one call, whose prompt shows all passages.
            Wrapped (`model.with_config()`), it is a model like any other, and reads all passages together.
        **options: More arguments of `HybridMemorySystem`, such as `k`, `budget` or `unsupported`.

    Raises:
        TypeError: The retriever finds no passages, or the model answers nothing.
        ValueError: An option is out of range.

    Example:
        ```python
        chain = create_hybrid_chain(HybridRetriever.from_documents(documents), model)
        answer = chain.invoke("Who designed it?")
        answer["answer"], answer["citations"], [document.metadata["title"] for document in answer["context"]]
        ```
    """
    if model is None or isinstance(model, FinetunedChatModel | LocalModel):
        own = {key: options.pop(key) for key in ("adapter", "max_new_tokens") if key in options}
        model = FinetunedChat(model, **own)
    return HybridChain(HybridMemorySystem(retriever, model, **options))


def read_input(
    asked: ChainInput,
    *,
    filter: Filter | None = None,  # noqa: A002
    route: Route | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the question of an input, and the options of the call.

    Args:
        asked: The input.
        filter: Asked for in addition to the input's own.
        route: Comes before the input's own.

    Raises:
        TypeError: It is neither text nor a mapping.
        ValueError: A mapping without a question, or with a filter or route under a wrong name.
    """
    given: Mapping[str, Any] = {"input": asked} if isinstance(asked, str) else asked
    if not isinstance(given, Mapping):
        msg = f"the chain takes a question or a dict with 'input', not a {type(given).__name__}"
        raise TypeError(msg)
    question = given.get("input", given.get("question"))
    if question is None:
        msg = f"the chain's input has no 'input' (or 'question'), only {sorted(given)}"
        raise ValueError(msg)
    for wrong, right in _MISNAMED.items():
        # Other keys pass by, since a chain before may carry more along; a lost filter would show what it excludes.
        if given.get(wrong) is not None:
            msg = f"the chain's input has {wrong!r}, which it does not know. Name it {right!r}, or leave it out."
            raise ValueError(msg)
    options = {"filter": both_filters(given.get("filter"), filter), "route": route or given.get("route")}
    return question, {key: value for key, value in options.items() if value is not None}


def to_output(answer: Answer) -> dict[str, Any]:
    """Return an answer as the chain's dict."""
    told = answer.to_dict()
    kept = ("answer", "reply", "facts", "citations", "abstained", "reason", "faithful", "route", "timings")
    context = [_document(source, cited=source.number in answer.citations) for source in answer.sources]
    return {"input": answer.question, "context": context, **{key: told[key] for key in kept}}


def _document(source: Source, *, cited: bool) -> Document:
    document = to_document(source.passage, "title")
    told = {"number": source.number, "cited": cited, "kind": source.kind, "score": source.score}
    document.metadata = {**told, **document.metadata, "hybridmem": {**source.provenance, **told}}
    return document


def _piece(piece: str | Answer) -> dict[str, Any]:
    if isinstance(piece, str):
        return AddableDict(reply=piece)
    return AddableDict({key: value for key, value in to_output(piece).items() if key != "reply"})


def _added(whole: Any, piece: Any) -> Any:
    """Add pieces as `Runnable.transform` does, but key by key: one value that cannot be added costs no other."""
    if isinstance(whole, AddableDict) and isinstance(piece, AddableDict):
        return AddableDict({**whole, **{key: _added(whole.get(key), value) for key, value in piece.items()}})
    if whole is None or piece is None:
        return piece if whole is None else whole
    try:
        return whole + piece
    except TypeError:
        return piece
