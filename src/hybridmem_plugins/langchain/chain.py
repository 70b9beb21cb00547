"""The system as a LangChain Runnable: translation only, `HybridMemorySystem` does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import AddableDict

from hybridmem_plugins.langchain.chat_model import FinetunedChatModel
from hybridmem_plugins.langchain.documents import to_document
from hybridmem_plugins.system.answer import Answer, Source
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem

ChainInput = str | Mapping[str, Any]


class HybridChain(Runnable[ChainInput, dict[str, Any]]):
    """Answers a question from a retriever's documents, cites them, and abstains with a reason.

    Takes a question, or a dict with `input` (or `question`) and, over a hybrid memory, maybe `filter` and `route`.
    Gives a dict: `input`, `answer`, `reply` (what the model wrote, before it was checked), `context` (documents in the
    order of their numbers; `number` and `cited` are in their metadata), `facts`, `citations`, `abstained`, `reason`,
    `faithful`, `route`, `timings`.

    Streamed, `reply` comes in pieces; the rest, and with it the checked `answer`, comes last.

    Args:
        system: What answers.
    """

    def __init__(self, system: HybridMemorySystem) -> None:
        self.system = system

    def invoke(self, input: ChainInput, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Answer one question."""
        return self._call_with_config(self._answer, input, config)

    async def ainvoke(self, input: ChainInput, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: A002
        """Answer one question without blocking the event loop."""
        return await self._acall_with_config(self._aanswer, input, config)

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
        """Answer the last of the inputs piece by piece."""
        yield from self._transform_stream_with_config(input, self._pieces, config)

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
        async for piece in self._atransform_stream_with_config(input, self._apieces, config):
            yield piece

    # Calls inside run in the context of this one, so that callbacks reach the retriever and the model.

    def _answer(self, asked: ChainInput) -> dict[str, Any]:
        question, options = read_input(asked)
        return to_output(self.system.query(question, **options))

    async def _aanswer(self, asked: ChainInput) -> dict[str, Any]:
        question, options = read_input(asked)
        return to_output(await self.system.aquery(question, **options))

    def _pieces(self, asked: Iterator[ChainInput]) -> Iterator[dict[str, Any]]:
        question, options = read_input(_last(list(asked)))
        for piece in self.system.stream(question, **options):
            yield _piece(piece)

    async def _apieces(self, asked: AsyncIterator[ChainInput]) -> AsyncIterator[dict[str, Any]]:
        question, options = read_input(_last([one async for one in asked]))
        async for piece in self.system.astream(question, **options):
            yield _piece(piece)


def create_hybrid_chain(retriever: Any, model: Any = None, **options: Any) -> HybridChain:
    """Make a chain that answers from a retriever's documents and cites them.

    Args:
        retriever: Any LangChain retriever, `HybridRetriever` among them, or a `HybridMemory`.
        model: Any LangChain chat model, LLM or Runnable over messages; None is the shipped fine-tuned model, on this
            machine.
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
    if isinstance(model, FinetunedChatModel):
        limit = {} if model.max_tokens is None else {"max_new_tokens": model.max_tokens}
        adapter = model.adapter if model.adapter in model._local.adapters else None
        return HybridChain(HybridMemorySystem(retriever, model._local, adapter=adapter, **{**limit, **options}))
    return HybridChain(HybridMemorySystem(retriever, model, **options))


def read_input(asked: ChainInput) -> tuple[str, dict[str, Any]]:
    """Return the question of an input, and the options of the call.

    Raises:
        TypeError: It is neither text nor a mapping.
        ValueError: A mapping without a question.
    """
    if isinstance(asked, str):
        return asked, {}
    if not isinstance(asked, Mapping):
        msg = f"the chain takes a question or a dict with 'input', not a {type(asked).__name__}"
        raise TypeError(msg)
    question = asked.get("input", asked.get("question"))
    if question is None:
        msg = f"the chain's input has no 'input' (or 'question'), only {sorted(asked)}"
        raise ValueError(msg)
    return question, {key: asked[key] for key in ("filter", "route") if asked.get(key) is not None}


def to_output(answer: Answer) -> dict[str, Any]:
    """Return an answer as the chain's dict."""
    told = answer.to_dict()
    kept = ("answer", "reply", "facts", "citations", "abstained", "reason", "faithful", "route", "timings")
    context = [_document(source, cited=source.number in answer.citations) for source in answer.sources]
    return {"input": answer.question, "context": context, **{key: told[key] for key in kept}}


def _document(source: Source, *, cited: bool) -> Document:
    document = to_document(source.passage, "title")
    document.metadata.update(number=source.number, cited=cited, kind=source.kind, score=source.score)
    if source.provenance:
        document.metadata["hybridmem"] = dict(source.provenance)
    return document


def _piece(piece: str | Answer) -> dict[str, Any]:
    if isinstance(piece, str):
        return AddableDict(reply=piece)
    return AddableDict({key: value for key, value in to_output(piece).items() if key != "reply"})


def _last(asked: list[ChainInput]) -> ChainInput:
    if all(isinstance(one, str) for one in asked):
        return "".join(str(one) for one in asked)  # a question that streams in
    return asked[-1]
