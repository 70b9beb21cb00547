"""Tool calls: read out of text, and through both wrappers for a model whose template shows tools."""

from __future__ import annotations

import pytest

from hybridmem_plugins.generation import Generation, parse_tool_calls

CALL = 'Let me see.<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "names", "broken"),
    [
        (CALL, ["add"], 0),
        ('{"name": "add", "parameters": {"a": 1}}', ["add"], 0),
        ('[{"name": "x", "arguments": "{}"}, {"name": "y", "arguments": {}}]', ["x", "y"], 0),
        ('<tool_call>{"name": "add", </tool_call>', [], 1),
        ('{"colour": "red"}', [], 0),
        ("Plain words.", [], 0),
    ],
)
def test_calls_are_read_or_said_to_be_broken(text, names, broken):
    reply = parse_tool_calls(text)
    assert [call.name for call in reply.calls] == names
    assert len(reply.broken) == broken
    if not names and not broken:
        assert reply.text == text


class _Scripted:
    """Stands in for a loaded model whose template shows tools."""

    name, adapters, default_adapter, supports_tools, context_window = "scripted", ["base"], "base", True, 1024

    def __init__(self):
        self.seen = []

    def choose(self, settings):
        return None

    def chat(self, messages, **options):
        self.seen.append((messages, options))
        return Generation(CALL, "stop", 7, 5, "base")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def test_langchain_shows_tools_and_returns_calls():
    pytest.importorskip("langchain_core")
    from hybridmem_plugins.langchain.chat_model import FinetunedChatModel

    scripted = _Scripted()
    model = FinetunedChatModel.model_construct(local_model=scripted)
    model._local = scripted
    answer = model.bind_tools([add]).invoke("1 + 2?")
    assert answer.tool_calls[0]["args"] == {"a": 1, "b": 2}
    assert answer.content == "Let me see."
    assert answer.usage_metadata["total_tokens"] == 12
    assert scripted.seen[0][1]["tools"][0]["function"]["name"] == "add"
    with pytest.raises(ValueError, match="none of the tools"):
        model.bind_tools([add], tool_choice="subtract")
    scripted.supports_tools = False
    with pytest.raises(ValueError, match="cannot show tools"):
        model.bind_tools([add])
