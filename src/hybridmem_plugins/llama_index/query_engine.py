"""The system as a LlamaIndex query engine: translation only, `HybridMemorySystem` does the work."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks.base import CallbackManager, EventContext
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from hybridmem_plugins.llama_index.llm import FinetunedLLM
from hybridmem_plugins.llama_index.nodes import PROVENANCE, to_node
from hybridmem_plugins.llama_index.question import question_of
from hybridmem_plugins.system.answer import Answer, Source
from hybridmem_plugins.system.hybrid_system import HybridMemorySystem
from hybridmem_plugins.system.models import LocalChat, Messages, Reply, estimate_tokens


class HybridQueryEngine(BaseQueryEngine):
    """Answers a query from a retriever's nodes, cites them, and abstains with a reason.

    The response's `source_nodes` are what the model read, in the order of their numbers: the nodes that the retriever
    found, with the text that was shown. `number`, `cited` and `kind` (`passage`, or `fact` for a single sentence) are
    in `node.metadata["hybridmem"]`, and also in the metadata themselves where a node has no such keys of its own. The
    response's metadata holds `citations`, `facts`, `abstained`, `reason`, `faithful`, `route` and `timings`.

    Args:
        system: What answers.
        streaming: Return a `StreamingResponse` of the model's reply. Which sources are cited, and the metadata, are
            known once it is read; `abstained` is None before.
        callback_manager: As for every query engine.
    """

    def __init__(
        self, system: HybridMemorySystem, *, streaming: bool = False, callback_manager: CallbackManager | None = None
    ) -> None:
        super().__init__(callback_manager)
        self.system, self.streaming = system, streaming

    @classmethod
    def from_args(
        cls,
        retriever: Any,
        llm: Any = None,
        *,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> HybridQueryEngine:
        """Make an engine over a retriever.

        Args:
            retriever: Any LlamaIndex retriever, `HybridRetriever` among them (whose `reranker` takes node
                postprocessors), or a `HybridMemory`.
            llm: Any LlamaIndex LLM; None is the shipped fine-tuned model, on this machine. A `FinetunedLLM` answers
                with its own options, but where each passage is read alone (`reading="each"`, and the shipped adapter
                unless told otherwise) always takes the likeliest token, as its choice among them was fitted so.
            streaming: See the class.
            callback_manager: See the class.
            **options: More arguments of `HybridMemorySystem`, such as `k`, `budget` or `unsupported`.

        Raises:
            TypeError: The retriever finds no passages, or the LLM answers nothing.
            ValueError: An option is out of range.
        """
        if isinstance(llm, FinetunedLLM):
            own = {key: options.pop(key) for key in ("adapter", "max_new_tokens") if key in options}
            model: Any = _Finetuned(llm, **own)
        else:
            model = _Chat(llm) if isinstance(llm, LLM) else llm
        system = HybridMemorySystem(retriever, model, **options)
        return cls(system, streaming=streaming, callback_manager=callback_manager)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._telling(query_bundle) as event:
            question, system, found = self._asked(query_bundle)
            response: RESPONSE_TYPE
            if self.streaming:
                turn = system._prepared(question, None, "auto")
                told = _Told(turn.sources, found)
                response = StreamingResponse(told.texts(system._streamed(turn)), told.nodes, told.metadata)
            else:
                response = to_response(system.query(question), found)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        with self._telling(query_bundle) as event:
            question, system, found = self._asked(query_bundle)
            response: RESPONSE_TYPE
            if self.streaming:
                turn = await system._aprepared(question, None, "auto")
                told = _Told(turn.sources, found)
                response = AsyncStreamingResponse(told.atexts(system._astreamed(turn)), told.nodes, told.metadata)
            else:
                response = to_response(await system.aquery(question), found)
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _telling(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        """Tell the callback manager of a query, as LlamaIndex's own query engines do."""
        asked: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        return self.callback_manager.event(CBEventType.QUERY, payload=asked)

    def _asked(self, query_bundle: QueryBundle) -> tuple[str, HybridMemorySystem, dict[str, BaseNode]]:
        """Return the question, who answers it, and where the nodes will be that are found for it.

        The core asks with a string and knows passages only; between it and a LlamaIndex retriever, the rest of the
        query (texts to embed in place of the question, as of HyDE) and of the nodes would be lost.
        """
        question = question_of(query_bundle)
        inner: Any = self.system.retriever
        if not isinstance(getattr(inner, "source", None), BaseRetriever):
            return question, self.system, {}
        asked = _Asked(inner.source, replace(query_bundle, query_str=question))
        system = copy(self.system)
        system.retriever = type(inner)(asked, behind=inner.source)
        return question, system, asked.found


class _Asked:
    """A retriever that is asked with one whole query, whatever the core asks, and keeps what it found."""

    def __init__(self, source: BaseRetriever, query: QueryBundle) -> None:
        self.source, self.query = source, query
        self.found = dict[str, BaseNode]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def retrieve(self, _: str) -> list[NodeWithScore]:
        return self._kept(self.source.retrieve(self.query))

    async def aretrieve(self, _: str) -> list[NodeWithScore]:
        return self._kept(await self.source.aretrieve(self.query))

    def _kept(self, found: list[NodeWithScore]) -> list[NodeWithScore]:
        self.found.update({one.node.node_id: one.node for one in found})
        return found


class _Told:
    """What a streamed response says beside its text: the sources at once, and what is known at its end then."""

    def __init__(self, sources: Sequence[Source], found: Mapping[str, BaseNode]) -> None:
        self.nodes, self._found, self._written = source_nodes(sources, (), found), found, False
        # Not empty, as LlamaIndex's routers take an empty dict for none and put their own into its place.
        self.metadata: dict[str, Any] = {"abstained": None}

    def texts(self, pieces: Iterator[str | Answer]) -> Generator[str, None, None]:
        """Yield the text, and at its end fill in what the response says of the answer."""
        for piece in pieces:
            if text := self._heard(piece):
                yield text

    async def atexts(self, pieces: AsyncIterator[str | Answer]) -> AsyncGenerator[str, None]:
        """Do as `texts`."""
        async for piece in pieces:
            if text := self._heard(piece):
                yield text

    def _heard(self, piece: str | Answer) -> str:
        if isinstance(piece, str):
            self._written = True
            return piece
        self.metadata.update(metadata_of(piece))
        # In the nodes themselves: a chat engine has put them into a list of its own.
        for node, known in zip(self.nodes, source_nodes(piece.sources, piece.citations, self._found), strict=True):
            node.node.metadata = known.node.metadata
        return "" if self._written else piece.text  # of nothing, the model is not asked


def to_response(answer: Answer, found: Mapping[str, BaseNode] | None = None) -> Response:
    """Return an answer as a response with its sources; see `source_nodes`."""
    nodes = source_nodes(answer.sources, answer.citations, found or {})
    return Response(answer.text, source_nodes=nodes, metadata=metadata_of(answer))


def source_nodes(
    sources: Sequence[Source], citations: Collection[int], found: Mapping[str, BaseNode]
) -> list[NodeWithScore]:
    """Return what the model read as nodes, in the order of their numbers.

    Args:
        sources: What it read.
        citations: Numbers of those that the answer cites.
        found: The nodes that these come from, by id; they stay as they are. Others are made from the passages.
    """
    nodes = []
    for source in sources:
        passage = source.passage if source.passage.id else replace(source.passage, id=str(uuid.uuid4()))
        node = found.get(str(passage.id)) or to_node(passage)
        told = {"number": source.number, "cited": source.number in citations, "kind": source.kind}
        added: dict[str, Any] = {key: value for key, value in told.items() if key not in node.metadata}
        added[PROVENANCE] = {**source.provenance, **told}
        update: dict[str, Any] = {"metadata": {**node.metadata, **added}}
        for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
            update[name] = list(dict.fromkeys([*getattr(node, name), *added]))
        shown = node.model_copy(update=update)
        if shown.get_content(metadata_mode=MetadataMode.NONE) != passage.text:
            shown.set_content(passage.text)
        nodes.append(NodeWithScore(node=shown, score=source.score))
    return nodes


def metadata_of(answer: Answer) -> dict[str, Any]:
    """Return what a response says of its answer beside text and nodes."""
    told = answer.to_dict()
    return {k: told[k] for k in ("citations", "facts", "abstained", "reason", "faithful", "route", "timings", "answer")}


class _Finetuned(LocalChat):
    """The model of a `FinetunedLLM`, with that one's options."""

    def __init__(self, llm: FinetunedLLM, **own: Any) -> None:
        adapter = llm.adapter if llm.adapter in llm._local.adapters else None
        limit = {} if llm.max_tokens is None else {"max_new_tokens": llm.max_tokens}
        super().__init__(llm._local, **{"adapter": adapter, **limit, **own})
        self.llm = llm

    def _options(self) -> dict[str, Any]:
        return {**self.llm._settings({}), **super()._options()}


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
