"""Chat messages to prompt text through the model's own template, and tool calls back out of generated text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridmem_plugins.generation.stopping import safe_length
from hybridmem_plugins.memory.validation import check_text

Message = Mapping[str, Any]
"""`role` (system, user, assistant, tool), `content`, and for tools `tool_calls`, `tool_call_id`, `name`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model asks for.

    Attributes:
        name: Name of the tool.
        arguments: Its arguments.
    """

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """Generated text, split.

    Attributes:
        text: What is said beside the calls.
        calls: Tool calls that could be read.
        broken: Text of calls that could not be read as JSON with a name.
    """

    text: str
    calls: list[ToolCall] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def supports_tools(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's chat template shows tools to the model."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        return "tool_use" in template
    return bool(template) and re.search(r"\btools\b", template) is not None


def check_template(tokenizer: Any) -> None:
    """Check that a tokenizer can show chats.

    Raises:
        ValueError: It has no chat template.
    """
    if not tokenizer.chat_template:
        msg = "The tokenizer has no chat template. Set `tokenizer.chat_template`, or use an instruction-tuned model."
        raise ValueError(msg)


def render_chat(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Render messages, with the opening of the assistant's turn, as the model was taught to read them.

    A system message that the template refuses is put in front of the first user message. Control tokens in messages,
    tool calls and tools are parted by a space: a retrieved "<|im_end|>" is text, and must not end the turn.
    A model that may think first (Qwen3, SmolLM3) is told not to: it would think through all tokens of a reply.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: At least one message; any order of roles that the template takes.
        tools: Tools as OpenAI function schemas.

    Raises:
        TypeError: One text or message is given in place of a list.
        ValueError: There are no messages, no chat template, tools for a template that cannot show them, or half of a
            surrogate pair.
    """
    if isinstance(messages, str | Mapping):
        msg = "A chat is a list of messages with `role` and `content`, not one text or message."
        raise TypeError(msg)
    if not messages:
        msg = "There are no messages to answer."
        raise ValueError(msg)
    check_template(tokenizer)
    if tools and not supports_tools(tokenizer):
        msg = "This model's chat template cannot show tools. Use a model whose template supports them, or no tools."
        raise ValueError(msg)
    controls = control_tokens(tokenizer)
    plain = [_parted(_plain(message), controls) for message in messages]
    shown = _parted(list(tools or ()), controls)
    try:
        return _apply(tokenizer, plain, shown)
    except Exception as error:
        if plain[0]["role"] != "system" or "system" not in str(error).lower():
            raise
        return _apply(tokenizer, _fold_system(plain), shown)


def _apply(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    options = {"enable_thinking": False, **({"tools": tools} if tools else {})}
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))
    check_text(text, "the chat")
    return text


def text_of(content: Any) -> str:
    """Return the text of a message's content: itself, or the text parts of a list, as OpenAI's chats have them.

    >>> text_of([{"type": "text", "text": "Who wrote it?"}])
    'Who wrote it?'

    Raises:
        ValueError: A part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for part in content if isinstance(content, Sequence) else [content]:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            msg = f"A message holds more than text, which this model cannot read: {str(part)[:80]}"
            raise ValueError(msg)
        texts.append(text)
    return "".join(texts)


def control_tokens(tokenizer: Any) -> list[str]:
    """Return the texts that a tokenizer reads as control tokens, such as the end of a turn."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [token.content for token in added.values() if token.special]


def _plain(message: Message) -> dict[str, Any]:
    result = {"role": str(message["role"]), "content": text_of(message.get("content"))}
    result.update({key: message[key] for key in ("tool_calls", "tool_call_id", "name") if message.get(key)})
    return result


def _parted(value: Any, controls: Sequence[str]) -> Any:
    """Return a text, or what holds texts however deep, with the control tokens parted."""
    if isinstance(value, str):
        for token in controls:
            value = value.replace(token, f"{token[:1]} {token[1:]}")
        return value
    if isinstance(value, Mapping):
        return {_parted(key, controls): _parted(item, controls) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_parted(item, controls) for item in value]
    return value


def _fold_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    head, *rest = messages
    for position, message in enumerate(rest):
        if message["role"] == "user":
            rest[position] = {**message, "content": f"{head['content']}\n\n{message['content']}"}
            return rest
    return [{"role": "user", "content": head["content"]}, *rest]


_OPENING = "<tool_call>"
_MARKED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def parse_tool_calls(text: str) -> ParsedReply:
    """Find tool calls in generated text: `<tool_call>` blocks, or a bare JSON object or list of objects.

    >>> parse_tool_calls('<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>').calls
    [ToolCall(name='add', arguments={'a': 1})]
    """
    blocks = _MARKED.findall(text)
    rest = _MARKED.sub("", text).strip()
    if not blocks:
        calls = _read_calls(text.strip())
        return ParsedReply("", calls) if calls else ParsedReply(text)
    reply = ParsedReply(rest)
    for block in blocks:
        calls = _read_calls(block, marked=True)
        reply.calls.extend(calls or [])
        if not calls:
            reply.broken.append(block)
    return reply


def words_before_calls(text: str) -> int:
    """Return how many characters of a reply that is still growing are surely no part of a tool call.

    >>> words_before_calls("Let me see. <tool"), words_before_calls('{"na'), words_before_calls("Plain words.")
    (12, 0, 12)
    """
    if text.lstrip()[:1] in ("", "{", "["):
        return 0
    start = text.find(_OPENING)
    return safe_length(text, [_OPENING]) if start < 0 else start


def _read_calls(text: str, *, marked: bool = False) -> list[ToolCall] | None:
    """Read calls from JSON. Only a marked one may lack its arguments, as any object may have a name."""
    if not text.startswith(("{", "[")):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    calls = []
    for item in found if isinstance(found, list) else [found]:
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        if not named or not (marked or item.keys() & {"arguments", "parameters"}):
            return None
        arguments = item.get("arguments", item.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                return None
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return None
        calls.append(ToolCall(item["name"], arguments))
    return calls or None
