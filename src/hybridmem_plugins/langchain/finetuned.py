"""A local model as the system asks it, with LangChain's callbacks told of each reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables.config import ensure_config

from hybridmem_plugins.generation import LocalModel
from hybridmem_plugins.langchain.chat_model import FinetunedChatModel
from hybridmem_plugins.system.models import Asked, LocalChat, Messages, Reply

M = TypeVar("M", CallbackManager, AsyncCallbackManager)


class FinetunedChat(LocalChat):
    """Answers with a local model, and reads each passage alone where that was fitted.

    Callbacks see each reply as one call of a chat model, whose prompt shows all passages, however they are read.

    Args:
        model: A chat model, which answers with its own options; a loaded model; None is the shipped one.
        **own: Arguments of `LocalChat`, which come before the chat model's options.
    """

    def __init__(self, model: FinetunedChatModel | LocalModel | None, **own: Any) -> None:
        self._given = model if isinstance(model, FinetunedChatModel) else None
        if isinstance(model, FinetunedChatModel):
            limit = {} if model.max_tokens is None else {"max_new_tokens": model.max_tokens}
            own, model = {"adapter": model.adapter, **limit, **own}, model._local
        super().__init__(model, **own)

    @cached_property
    def chat(self) -> FinetunedChatModel:
        """The chat model that callbacks are told of."""
        return self._given or FinetunedChatModel(local_model=self.local, adapter=self.adapter)

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        """Answer several chats, decoded together."""
        return self._told(chats, partial(super().reply, chats))

    async def areply(self, messages: Messages) -> Reply:
        """Answer one chat without blocking the event loop."""
        return await self._atold(messages, super().areply(messages))

    def reply_each(self, asked: Sequence[Asked]) -> list[Reply]:
        """Answer several questions, reading each passage alone; all are decoded together."""
        return self._told([one.messages for one in asked], partial(super().reply_each, asked))

    async def areply_each(self, asked: Asked) -> Reply:
        """Do as `reply_each` for one, without blocking the event loop; a cancelled task stops at the next token."""
        return await self._atold(asked.messages, super().areply_each(asked))

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        """Answer one chat piece by piece, and yield the whole reply last."""
        [run] = self._callbacks(CallbackManager).on_chat_model_start(**self._start([messages]))
        reply = Reply("")
        try:
            for piece in super().stream(messages):
                if isinstance(piece, Reply):
                    reply = piece
                else:
                    run.on_llm_new_token(piece, chunk=_chunk(piece, run.run_id))
                yield piece
        except BaseException as error:
            run.on_llm_error(error)
            raise
        run.on_llm_end(self._result(reply, run.run_id))

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        """Do as `stream`, without blocking the event loop."""
        [run] = await self._callbacks(AsyncCallbackManager).on_chat_model_start(**self._start([messages]))
        reply = Reply("")
        try:
            async for piece in super().astream(messages):
                if isinstance(piece, Reply):
                    reply = piece
                else:
                    await run.on_llm_new_token(piece, chunk=_chunk(piece, run.run_id))
                yield piece
        except BaseException as error:
            await run.on_llm_error(error)
            raise
        await run.on_llm_end(self._result(reply, run.run_id))

    def _options(self) -> dict[str, Any]:
        given = {} if self._given is None else self._given._settings(None, {})
        return {**given, **super()._options()}

    # --- what callbacks are told -----------------------------------------------------------------------------------

    def _told(self, chats: Sequence[Messages], answer: Callable[[], list[Reply]]) -> list[Reply]:
        runs = self._callbacks(CallbackManager).on_chat_model_start(**self._start(chats))
        try:
            replies = answer()
        except BaseException as error:
            for run in runs:
                run.on_llm_error(error)
            raise
        for run, reply in zip(runs, replies, strict=True):
            run.on_llm_end(self._result(reply, run.run_id))
        return replies

    async def _atold(self, messages: Messages, answer: Awaitable[Reply]) -> Reply:
        [run] = await self._callbacks(AsyncCallbackManager).on_chat_model_start(**self._start([messages]))
        try:
            reply = await answer
        except BaseException as error:
            await run.on_llm_error(error)
            raise
        await run.on_llm_end(self._result(reply, run.run_id))
        return reply

    def _callbacks(self, kind: type[M]) -> M:
        """Return the callbacks of the call in whose context this runs, and the chat model's own."""
        config, chat = ensure_config(), self.chat
        metadata = {**(config.get("metadata") or {}), **chat._get_ls_params()}
        tags = config.get("tags")
        return kind.configure(
            config.get("callbacks"), chat.callbacks, chat.verbose, tags, chat.tags, metadata, chat.metadata
        )

    def _start(self, chats: Sequence[Messages]) -> dict[str, Any]:
        shown: list[list[BaseMessage]] = [convert_to_messages([dict(one) for one in messages]) for messages in chats]
        params = self.chat._get_invocation_params()
        return {"serialized": self.chat._serialized, "messages": shown, "invocation_params": params}

    def _result(self, reply: Reply, run_id: UUID) -> LLMResult:
        read, written = reply.input_tokens, reply.output_tokens
        message = AIMessage(
            reply.text,
            id=_message_id(run_id),
            usage_metadata=UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written),
            response_metadata={"model_name": self.chat.model_name, "model_provider": "hybridmem"},
        )
        return LLMResult(generations=[[ChatGeneration(message=message)]])


def _chunk(piece: str, run_id: UUID) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece, id=_message_id(run_id)))


def _message_id(run_id: UUID) -> str:
    # Pieces and the whole are told to be one message by it, as LangChain's own models do.
    return f"lc_run--{run_id}"
