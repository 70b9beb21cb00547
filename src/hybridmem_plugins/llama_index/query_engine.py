"""The system as a LlamaIndex query engine: translation only, `HybridMemorySystem` does the work."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from hybridmem_plugins.llama_index.llm import FinetunedLLM
from hybridmem_plugins.llama_index.question import question_of
from hybridmem_plugins.system.answer import Answer
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem
from hybridmem_plugins.system.models import Messages, Reply, estimate_tokens


class HybridQueryEngine(BaseQueryEngine):
    """Answers a query from a retriever's nodes, cites them, and abstains with a reason.

    The response's `source_nodes` are what the model read, in the order of their numbers; `number` and `cited` are in
    each node's metadata. The response's metadata holds `citations`, `facts`, `abstained`, `reason`, `faithful`, `route`
    and `timings`.

    Args:
        system: What answers.
        streaming: Return a `StreamingResponse` of the model's reply; its metadata is complete once it is read.
        callback_manager: As for every query engine.
    """

    def __init__(
        self, system: HybridMemorySystem, *, streaming: bool = False, callback_manager: CallbackManager | None = None
    ) -> None:
        super().__init__(callback_manager)
        self.system, self.streaming = system, streaming

    @classmethod
    def from_args(
        cls, retriever: Any, llm: Any = None, *, streaming: bool = False, **options: Any
    ) -> HybridQueryEngine:
        """Make an engine over a retriever.

        Args:
            retriever: Any LlamaIndex retriever, `HybridRetriever` among them, or a `HybridMemory`.
            llm: Any LlamaIndex LLM; None is the shipped fine-tuned model, on this machine.
            streaming: See the class.
            **options: More arguments of `HybridMemorySystem`, such as `k`, `budget` or `unsupported`.

        Raises:
            TypeError: The retriever finds no passages, or the LLM answers nothing.
            ValueError: An option is out of range.
        """
        if isinstance(llm, FinetunedLLM):
            limit = {} if llm.max_tokens is None else {"max_new_tokens": llm.max_tokens}
            adapter = llm.adapter if llm.adapter in llm._local.adapters else None
            system = HybridMemorySystem(retriever, llm._local, adapter=adapter, **{**limit, **options})
        else:
            system = HybridMemorySystem(retriever, _Chat(llm) if isinstance(llm, LLM) else llm, **options)
        return cls(system, streaming=streaming)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        question = question_of(query_bundle)
        if not self.streaming:
            return to_response(self.system.query(question))
        told, nodes = dict[str, Any](), list[NodeWithScore]()
        pieces = _texts(self.system.stream(question), told, nodes)
        return StreamingResponse(pieces, source_nodes=nodes, metadata=told)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        question = question_of(query_bundle)
        if not self.streaming:
            return to_response(await self.system.aquery(question))
        told, nodes = dict[str, Any](), list[NodeWithScore]()
        pieces = _atexts(self.system.astream(question), told, nodes)
        return AsyncStreamingResponse(pieces, source_nodes=nodes, metadata=told)


def to_response(answer: Answer) -> Response:
    """Return an answer as a response with its sources."""
    return Response(answer.text, source_nodes=source_nodes(answer), metadata=metadata_of(answer))


def source_nodes(answer: Answer) -> list[NodeWithScore]:
    """Return what the model read as nodes, in the order of their numbers."""
    nodes = []
    for source in answer.sources:
        passage = source.passage
        metadata = {key: value for key, value in passage.metadata.items() if not key.startswith("_hybridmem")}
        metadata.update(number=source.number, cited=source.number in answer.citations, kind=source.kind)
        if passage.title:
            metadata.setdefault("title", passage.title)
        if source.provenance:
            metadata["hybridmem"] = dict(source.provenance)
        hidden = ["number", "cited", "kind", "hybridmem"]
        node = TextNode(
            text=passage.text, metadata=metadata, excluded_llm_metadata_keys=hidden, excluded_embed_metadata_keys=hidden
        )
        if passage.id:
            node.id_ = passage.id
        nodes.append(NodeWithScore(node=node, score=source.score))
    return nodes


def metadata_of(answer: Answer) -> dict[str, Any]:
    """Return what a response says of its answer beside text and nodes."""
    told = answer.to_dict()
    return {k: told[k] for k in ("citations", "facts", "abstained", "reason", "faithful", "route", "timings", "answer")}


def _texts(
    pieces: Iterator[str | Answer], told: dict[str, Any], nodes: list[NodeWithScore]
) -> Generator[str, None, None]:
    """Yield the text, and at its end fill in what the response says of the answer."""
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        else:
            told.update(metadata_of(piece))
            nodes += source_nodes(piece)


async def _atexts(
    pieces: AsyncIterator[str | Answer], told: dict[str, Any], nodes: list[NodeWithScore]
) -> AsyncGenerator[str, None]:
    """Do as `_texts`."""
    async for piece in pieces:
        if isinstance(piece, str):
            yield piece
        else:
            told.update(metadata_of(piece))
            nodes += source_nodes(piece)


class _Chat:
    """A LlamaIndex LLM as the core's `ChatModel`: messages stay messages."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm

    @property
    def name(self) -> str:
        return self.llm.metadata.model_name or type(self.llm).__name__

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    def window(self) -> int | None:
        told = self.llm.metadata
        return told.context_window - max(told.num_output, 0)

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        return [_read(self.llm.chat(_messages(chat))) for chat in chats]

    async def areply(self, messages: Messages) -> Reply:
        return _read(await self.llm.achat(_messages(messages)))

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        last = Reply("")
        for piece in self.llm.stream_chat(_messages(messages)):
            last = _read(piece)
            yield piece.delta or ""
        yield last

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        last = Reply("")
        async for piece in await self.llm.astream_chat(_messages(messages)):
            last = _read(piece)
            yield piece.delta or ""
        yield last


def _messages(chat: Sequence[Mapping[str, str]]) -> list[ChatMessage]:
    return [ChatMessage(role=message["role"], content=message["content"]) for message in chat]


def _read(response: Any) -> Reply:
    kept = response.additional_kwargs or {}
    counts = (int(kept.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
    return Reply(response.message.content or "", *counts)
