"""LlamaIndex's view of a local, fine-tuned model: translation only, `generation.LocalModel` does the work."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    ContentBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from hybridmem_plugins.generation import Generation, LocalModel, parse_tool_calls
from hybridmem_plugins.generation.chat import words_before_calls
from hybridmem_plugins.llama_index.fields import KnownFields

_OPTIONS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "adapter")


class FinetunedLLM(KnownFields, FunctionCallingLLM):
    r"""A local causal language model, with or without adapters, as a LlamaIndex LLM.

    Every option can be set here and again for a call: `llm.complete("Hi", adapter="base", stop=["\\n"])`. Prompts go
    through the chat template always, completions too. The shipped adapter answers the prompts of
    `augmentation.templates` alone, all other chats are the base's; see `generation.LocalModel`.

    Example:
        ```python
        llm = FinetunedLLM(adapter="smollm2-135m")
        llm.chat([ChatMessage(role="user", content="Who wrote it?")])
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    model: str | None = Field(default=None, description="Hub id, merged folder or .gguf file; None: the bundled 135M.")
    adapter: str | None = Field(default=None, description="Adapter that calls use, or a key of `adapters`.")
    adapters: dict[str, str] = Field(default_factory=dict, description="Further adapters by name.")
    adapter_scale: float = Field(default=1.0, description="Dial between the base (0) and the adapters (1).")
    device: str | None = Field(default=None, description="Torch device; None picks the accelerator that is there.")
    dtype: str | None = Field(default=None, description="Torch dtype; default bfloat16 on CUDA, else float32.")
    max_tokens: int | None = Field(default=None, description="Most tokens to generate; None: the model's own (256).")
    temperature: float = Field(default=0.0, description="0 takes the likeliest token; above 0 samples.")
    top_p: float = Field(default=1.0, description="Sample from the likeliest tokens with this much probability.")
    top_k: int = Field(default=0, description="Sample from this many likeliest tokens; 0 is no limit.")
    repetition_penalty: float = Field(default=1.0, description="Divides logits of tokens seen before; 1 is off.")
    seed: int | None = Field(default=None, description="Seed of the sampling.")
    stop: list[str] | None = Field(default=None, description="Strings before which every answer ends.")
    batch_size: int = Field(default=8, description="Most prompts decoded together.")

    _local: LocalModel = PrivateAttr()
    _given: bool = PrivateAttr(default=False)

    def __init__(self, *, local_model: LocalModel | None = None, **fields: Any) -> None:
        """Load the model, or use one that is loaded.

        Args:
            local_model: A loaded model to use instead of loading `model`.
            **fields: See the class's fields.

        Raises:
            ValueError: A field is unknown, or an option is out of range.
        """
        super().__init__(**fields)
        if local_model is None:
            own = self.adapter if self.adapter not in self.adapters else None
            local_model = LocalModel(
                self.model, adapter=own, adapters=self.adapters, adapter_scale=self.adapter_scale, device=self.device,
                dtype=self.dtype, batch_size=self.batch_size,
            )  # fmt: skip
            if own is None and self.adapter is not None:
                local_model.default_adapter = self.adapter
        else:
            # By their names, as caches of LlamaIndex tell models apart by their fields.
            self.model = self.model or local_model.name
            self.adapter = local_model.check_adapter(self.adapter)
            self._given = True
        self._local = local_model
        self._settings({})

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, from which the model is loaded again.

        Raises:
            TypeError: The model was given, and other fields load another one.
        """
        if self._given:
            msg = "a FinetunedLLM over a `local_model` cannot be pickled. Give it `model` and `adapter` to load again."
            raise TypeError(msg)
        state: dict[str, Any] = super().__getstate__()
        return state

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex registers the class by."""
        return "FinetunedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex may count on: a chat model, with tools where the chat template shows them."""
        return LLMMetadata(
            context_window=self._local.context_window,
            num_output=self.max_tokens or self._local.settings.max_new_tokens,
            is_chat_model=bool(self._local.tokenizer.chat_template),
            is_function_calling_model=self._local.supports_tools,
            model_name=self.model or self._local.name,
        )

    # -------------------------------------------------------------------- chat

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat."""
        return _chat_response(self._local.chat(as_chat(messages), **self._settings(kwargs)), kwargs)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a chat without blocking the event loop."""
        return _chat_response(await self._local.achat(as_chat(messages), **self._settings(kwargs)), kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a chat piece by piece."""
        pieces = self._local.stream(as_chat(messages), **self._settings(kwargs))

        def responses() -> ChatResponseGen:
            told = _Told(kwargs)
            for piece in pieces:
                yield from told.take(piece)

        return responses()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Answer a chat piece by piece without blocking the event loop."""
        pieces = self._local.astream(as_chat(messages), **self._settings(kwargs))

        async def responses() -> ChatResponseAsyncGen:
            told = _Told(kwargs)
            async for piece in pieces:
                for response in told.take(piece):
                    yield response

        return responses()

    # ------------------------------------------------------------- completion

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, as a chat of one user message."""
        generation = self._local.chat(_as_user(prompt), **self._settings(kwargs))
        return CompletionResponse(text=generation.text, **_facts(generation))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt without blocking the event loop."""
        generation = await self._local.achat(_as_user(prompt), **self._settings(kwargs))
        return CompletionResponse(text=generation.text, **_facts(generation))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        pieces = self._local.stream(_as_user(prompt), **self._settings(kwargs))

        def responses() -> CompletionResponseGen:
            text = ""
            for piece in pieces:
                text += piece if isinstance(piece, str) else ""
                yield _completion_piece(text, piece)

        return responses()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece without blocking the event loop."""
        pieces = self._local.astream(_as_user(prompt), **self._settings(kwargs))

        async def responses() -> CompletionResponseAsyncGen:
            text = ""
            async for piece in pieces:
                text += piece if isinstance(piece, str) else ""
                yield _completion_piece(text, piece)

        return responses()

    # ------------------------------------------------------------------- tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        messages = list(chat_history or [])
        if user_msg is not None:
            text = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
            messages.append(text)
        schemas = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        return {"messages": messages, "tools": schemas or None, **kwargs}

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        """Keep the first call alone where several are not allowed; LlamaIndex runs them all and then refuses them."""
        message = response.message
        further = [block for block in message.blocks if isinstance(block, ToolCallBlock)][1:]
        if further and not allow_parallel_tool_calls:
            message.blocks = [block for block in message.blocks if block not in further]
            message.additional_kwargs["tool_calls"] = message.additional_kwargs["tool_calls"][:1]
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Read the tool calls of an answer.

        Raises:
            ValueError: There are none, and `error_on_no_tool_call` is set.
        """
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            msg = "The model called no tool."
            raise ValueError(msg)
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "", tool_name=block.tool_name,
                tool_kwargs=block.tool_kwargs if isinstance(block.tool_kwargs, dict) else {},
            )
            for block in blocks
        ]  # fmt: skip

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Collect the options of one call, the call's own over the model's.

        Raises:
            ValueError: An option is unknown or out of range.
        """
        known = {*_OPTIONS, "max_tokens", "tools", "tool_choice"}
        unknown = sorted(set(kwargs) - known)
        if unknown:
            msg = f"Unknown option {unknown[0]!r}. Known: {', '.join(sorted(known))}."
            raise ValueError(msg)
        options = {key: kwargs.get(key, getattr(self, key)) for key in _OPTIONS}
        if options["adapter"] not in self._local.adapters and "adapter" not in kwargs:
            options["adapter"] = None
        options["max_new_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        self._local.choose({key: value for key, value in options.items() if key != "adapter"})
        return {**options, "tools": kwargs.get("tools")}


def _as_user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def as_chat(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Translate LlamaIndex messages to role and content; text blocks stand in lines, as in `ChatMessage.content`.

    Raises:
        ValueError: A message holds a block that is neither text nor a tool call.
    """
    chat: list[dict[str, Any]] = []
    for message in messages:
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block in message.blocks:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ToolCallBlock):
                calls.append(_call(block))
            elif block.block_type not in ("thinking", "cache"):
                msg = f"A local text model cannot read a block of type {block.block_type!r}."
                raise ValueError(msg)
        role = {"chatbot": "assistant", "model": "assistant", "developer": "system", "function": "tool"}
        entry: dict[str, Any] = {"role": role.get(message.role.value, message.role.value), "content": "\n".join(texts)}
        if calls:
            entry["tool_calls"] = calls
        entry.update(
            {k: message.additional_kwargs[k] for k in ("tool_call_id", "name") if k in message.additional_kwargs}
        )
        chat.append(entry)
    return chat


def _call(block: ToolCallBlock) -> dict[str, Any]:
    function = {"name": block.tool_name, "arguments": block.tool_kwargs}
    return {"type": "function", "id": block.tool_call_id, "function": function}


def _facts(generation: Generation) -> dict[str, Any]:
    facts = {
        "prompt_tokens": generation.input_tokens, "completion_tokens": generation.output_tokens,
        "total_tokens": generation.input_tokens + generation.output_tokens,
    }  # fmt: skip
    raw = {"finish_reason": generation.finish_reason, "adapter": generation.adapter, "usage": facts}
    return {"raw": raw, "additional_kwargs": facts}


def _chat_response(generation: Generation, kwargs: Mapping[str, Any]) -> ChatResponse:
    blocks: list[ContentBlock] = []
    calls: list[dict[str, Any]] = []
    reply = parse_tool_calls(generation.text) if kwargs.get("tools") else None
    text = reply.text if reply and reply.calls else generation.text
    if text or not (reply and reply.calls):
        blocks.append(TextBlock(text=text))
    for call in reply.calls if reply else ():
        block = ToolCallBlock(tool_call_id=f"call_{uuid.uuid4().hex}", tool_name=call.name, tool_kwargs=call.arguments)
        blocks.append(block)
        calls.append(_call(block))
    # LlamaIndex's structured streams look for calls here, and not among the blocks.
    kept: dict[str, Any] = {"tool_calls": calls} if calls else {}
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=kept)
    return ChatResponse(message=message, **_facts(generation))


class _Told:
    """What was told so far of a chat that streams; a tool call is told when it is whole."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self._kwargs, self._text, self._told = kwargs, "", ""

    def take(self, piece: str | Generation) -> Iterator[ChatResponse]:
        """Yield the response that a piece makes, if it makes one."""
        if isinstance(piece, Generation):
            response = _chat_response(piece, self._kwargs)
            response.delta = (response.message.content or "")[len(self._told) :]
            yield response
            return
        self._text += piece
        text = self._text[: words_before_calls(self._text)] if self._kwargs.get("tools") else self._text
        if len(text) > len(self._told):
            delta, self._told = text[len(self._told) :], text
            yield ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=text), delta=delta)


def _completion_piece(text: str, piece: str | Generation) -> CompletionResponse:
    if isinstance(piece, Generation):
        return CompletionResponse(text=text, delta="", **_facts(piece))
    return CompletionResponse(text=text, delta=piece)
