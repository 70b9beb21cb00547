"""Tool calls: read out of text, and through both wrappers for a model whose template shows tools."""

from __future__ import annotations

import functools
import operator
from types import SimpleNamespace

import pytest

from hybridmem_plugins.generation import Generation, GenerationSettings, parse_tool_calls

CALL = 'Let me see.<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "names", "broken"),
    [
        (CALL, ["add"], 0),
        ('{"name": "add", "parameters": {"a": 1}}', ["add"], 0),
        ('[{"name": "x", "arguments": "{}"}, {"name": "y", "arguments": {}}]', ["x", "y"], 0),
        ('<tool_call>{"name": "add", </tool_call>', [], 1),
        ('<tool_call>{"name": "now"}</tool_call>', ["now"], 0),
        ('<tool_call>{"name": "now", "arguments": null}</tool_call>', ["now"], 0),
        ('{"name": "now", "arguments": null}', ["now"], 0),
        ('<tool_call>{"name": "now", "arguments": [1]}</tool_call>', [], 1),
        ('{"name": "Ada"}', [], 0),
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
    settings, tokenizer = GenerationSettings(), SimpleNamespace(chat_template="tools")

    def __init__(self, text=CALL):
        self.text, self.seen = text, []

    def choose(self, settings):
        return None

    def check_adapter(self, name):
        return "base"

    def chat(self, messages, **options):
        self.seen.append((messages, options))
        return Generation(self.text, "stop", 7, 5, "base")

    def stream(self, messages, **options):
        whole = self.chat(messages, **options)
        yield from (self.text[start : start + 3] for start in range(0, len(self.text), 3))
        yield whole

    async def astream(self, messages, **options):
        for piece in self.stream(messages, **options):
            yield piece


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def subtract(a: int, b: int) -> int:
    """Subtract a number."""
    return a - b


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
    assert not model.bind_tools([add], tool_choice="none").invoke("1 + 2?").tool_calls
    assert not scripted.seen[1][1].get("tools")
    named = {"type": "function", "function": {"name": "add"}}
    assert model.bind_tools([add, subtract], tool_choice=named).kwargs["tools"] == scripted.seen[0][1]["tools"]
    with pytest.raises(ValueError, match="none of the tools"):
        model.bind_tools([add], tool_choice="subtract")
    scripted.supports_tools = False
    with pytest.raises(ValueError, match="cannot show tools"):
        model.bind_tools([add])


PIECES = [
    CALL,
    '{"name": "add", "parameters": {"a": 1}}',
    '{"colour": "red"}',
    "Plain words.",
    "Well.<tool_call>{broken",
    'Well.<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
]


@pytest.mark.parametrize("text", PIECES)
async def test_langchain_streams_what_is_said_and_no_part_of_a_call(text):
    pytest.importorskip("langchain_core")
    from langchain_core.callbacks import BaseCallbackHandler

    from hybridmem_plugins.langchain.chat_model import FinetunedChatModel

    class Listening(BaseCallbackHandler):
        def __init__(self):
            self.heard = []

        def on_llm_new_token(self, token, **kwargs):
            self.heard.append(kwargs["chunk"].message)

    scripted = _Scripted(text)
    model = FinetunedChatModel.model_construct(local_model=scripted)
    model._local = scripted
    bound = model.bind_tools([add])
    whole = bound.invoke("1 + 2?")
    told = ("content", "usage_metadata", "response_metadata")
    listening, alistening = Listening(), Listening()
    chunks = list(bound.stream("1 + 2?", {"callbacks": [listening]}))
    asynchronous = [chunk async for chunk in bound.astream("1 + 2?", {"callbacks": [alistening]})]
    for pieces, heard in ((chunks, listening.heard), (asynchronous, alistening.heard)):
        added = functools.reduce(operator.add, pieces)
        assert {key: getattr(added, key) for key in told} == {key: getattr(whole, key) for key in told}
        broken = [call["args"].removeprefix("<tool_call>") for call in added.invalid_tool_calls]
        assert broken == [call["args"] for call in whole.invalid_tool_calls]
        calls = [(call["name"], call["args"]) for call in whole.tool_calls]
        for stream in (added, functools.reduce(operator.add, heard)):
            assert [(call["name"], call["args"]) for call in stream.tool_calls] == calls
            assert stream.content == whole.content
        assert (len(pieces) > 3) == (whole.content in ("Let me see.", "Plain words.")), (
            "what is no call is not held back"
        )


@pytest.mark.parametrize("text", PIECES)
async def test_llama_index_streams_what_is_said_and_no_part_of_a_call(text):
    pytest.importorskip("llama_index.core")
    from llama_index.core.tools import FunctionTool

    from hybridmem_plugins.llama_index.llm import FinetunedLLM

    llm, tools = FinetunedLLM(local_model=_Scripted(text)), [FunctionTool.from_defaults(add)]
    whole = llm.chat_with_tools(tools, "1 + 2?")
    called = llm.get_tool_calls_from_response(whole, error_on_no_tool_call=False)
    assert [call.tool_name for call in called] == [call.name for call in parse_tool_calls(text).calls]
    said = whole.message.content or ""
    assert said == ("Let me see." if text == CALL else "" if called else text)  # a broken call is not lost
    asynchronous = await llm.astream_chat_with_tools(tools, "1 + 2?")
    for pieces in (list(llm.stream_chat_with_tools(tools, "1 + 2?")), [piece async for piece in asynchronous]):
        assert "".join(piece.delta for piece in pieces) == said
        assert (pieces[-1].message.content or "") == said
        told = llm.get_tool_calls_from_response(pieces[-1], error_on_no_tool_call=False)
        assert [call.tool_kwargs for call in told] == [call.tool_kwargs for call in called]


def test_llama_index_streams_structured_answers():
    pytest.importorskip("llama_index.core")
    from llama_index.core.prompts import PromptTemplate
    from pydantic import BaseModel

    from hybridmem_plugins.llama_index.llm import FinetunedLLM

    class Sum(BaseModel):
        """A sum."""

        total: int

    llm = FinetunedLLM(local_model=_Scripted('<tool_call>{"name": "Sum", "arguments": {"total": 3}}</tool_call>'))
    assert llm.structured_predict(Sum, PromptTemplate("1 + 2?")) == Sum(total=3)
    assert list(llm.stream_structured_predict(Sum, PromptTemplate("1 + 2?")))[-1] == Sum(total=3)
