"""What LlamaIndex's own programs make of a `FinetunedLLM`'s tool calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool

from hybridmem_plugins.generation import Generation, GenerationSettings
from hybridmem_plugins.llama_index import FinetunedLLM

TWICE = """<tool_call>{"name": "City", "arguments": {"name": "Paris"}}</tool_call>
<tool_call>{"name": "City", "arguments": {"name": "Rome"}}</tool_call>"""


class City(BaseModel):
    """A city."""

    name: str


class CallingTwice:
    """A loaded model whose template shows tools, and that calls twice whatever is asked."""

    name, adapters, supports_tools, context_window = "twice", ["base"], True, 1024
    settings, tokenizer = GenerationSettings(), SimpleNamespace(chat_template="tools")

    def choose(self, settings: Any) -> None:
        pass

    def check_adapter(self, name: Any) -> str:
        return "base"

    def chat(self, messages: Any, **options: Any) -> Generation:
        return Generation(TWICE, "stop", 7, 5, "base")

    async def achat(self, messages: Any, **options: Any) -> Generation:
        return self.chat(messages)


@pytest.fixture
def llm() -> FinetunedLLM:
    return FinetunedLLM(local_model=CallingTwice())  # type: ignore[arg-type]


async def test_of_two_calls_where_one_is_asked_for_the_first_counts(llm: FinetunedLLM) -> None:
    prompt = PromptTemplate("Which city?")
    assert llm.structured_predict(City, prompt) == City(name="Paris")
    assert await llm.astructured_predict(City, prompt) == City(name="Paris")
    called: list[str] = []

    def city(name: str) -> str:
        """Note a city down."""
        called.append(name)
        return name

    tool = FunctionTool.from_defaults(city, name="City")
    assert str(llm.predict_and_call([tool], user_msg="Which city?")) == "Paris"
    assert called == ["Paris"]
    for several, names in ((False, ["Paris"]), (True, ["Paris", "Rome"])):
        response = llm.chat_with_tools([tool], user_msg="Which cities?", allow_parallel_tool_calls=several)
        assert [call.tool_kwargs["name"] for call in llm.get_tool_calls_from_response(response)] == names
        assert len(response.message.additional_kwargs["tool_calls"]) == len(names)
