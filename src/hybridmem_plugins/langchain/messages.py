"""LangChain's messages as the role and content that chat templates take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

_ROLES: dict[type[BaseMessage], str] = {
    SystemMessage: "system", HumanMessage: "user", AIMessage: "assistant", ToolMessage: "tool",
}  # fmt: skip


def as_chat(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Translate LangChain messages to role and content. Blocks that are no text are refused.

    Raises:
        ValueError: A message holds an image, audio or a file, or is of an unknown kind.
    """
    return [_as_role(message) for message in messages]


def _as_role(message: BaseMessage) -> dict[str, Any]:
    role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), None)
    if isinstance(message, ChatMessage):
        role = message.role
    if role is None:
        msg = f"A {type(message).__name__} cannot be shown to a local model."
        raise ValueError(msg)
    result: dict[str, Any] = {"role": role, "content": _text(message)}
    if isinstance(message, ToolMessage):
        result.update(tool_call_id=message.tool_call_id, name=message.name)
    if isinstance(message, AIMessage) and message.tool_calls:
        result["tool_calls"] = [
            {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
    return result


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") == "text":
            texts.append(str(block["text"]))
        elif block.get("type") in ("tool_use", "tool_call", "reasoning", "thinking"):
            continue
        elif block.get("type") == "json" or "json" in block:
            texts.append(json.dumps(block.get("json", block)))
        else:
            msg = f"A local text model cannot read content of type {block.get('type')!r}."
            raise ValueError(msg)
    return "".join(texts)
