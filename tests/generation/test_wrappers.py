"""Both wrappers on the real model: what LangChain's own tests do not look at."""

from __future__ import annotations

import asyncio

import pytest

QUESTION = "Name three colours and say why."


@pytest.fixture
def chat_model(real_model):
    pytest.importorskip("langchain_core")
    from hybridmem_plugins.langchain.chat_model import FinetunedChatModel

    return FinetunedChatModel(local_model=real_model, max_tokens=12)


@pytest.fixture
def llm(real_model):
    pytest.importorskip("llama_index.core")
    from hybridmem_plugins.llama_index.llm import FinetunedLLM

    return FinetunedLLM(local_model=real_model, max_tokens=12)


def test_langchain_obeys_stop_in_both_modes(chat_model):
    whole = chat_model.invoke(QUESTION).content
    stop = [whole[8:16], "Question:"]
    expected = whole[: whole.index(stop[0])]
    assert chat_model.invoke(QUESTION, stop=stop).content == expected
    assert "".join(chunk.content for chunk in chat_model.stream(QUESTION, stop=stop)) == expected


def test_langchain_batch_equals_single_calls(chat_model):
    questions = [QUESTION, "Hi"]
    together = chat_model.batch(questions)
    assert [m.content for m in together] == [chat_model.invoke(q).content for q in questions]
    assert asyncio.run(chat_model.abatch(questions))[1].content == together[1].content


def test_langchain_refuses_unknown_options(chat_model):
    with pytest.raises(ValueError, match="beams"):
        chat_model.invoke("Hi", beams=4)


def test_llama_index_streams_what_it_completes(llm):
    whole = llm.complete(QUESTION).text
    pieces = list(llm.stream_complete(QUESTION))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].text == whole
    assert llm.metadata.is_chat_model
    assert not llm.metadata.is_function_calling_model
    assert pieces[-1].raw["usage"]["completion_tokens"] > 0


async def test_llama_index_async_equals_sync(llm):
    from llama_index.core.llms import ChatMessage

    message = [ChatMessage(role="user", content="Hi")]
    expected = llm.chat(message).message.content
    assert (await llm.achat(message)).message.content == expected
    text = ""
    async for piece in await llm.astream_chat(message):
        text += piece.delta
    assert text == expected


def test_llama_index_reads_text_blocks_as_lines(llm):
    from llama_index.core.llms import ChatMessage, TextBlock

    from hybridmem_plugins.llama_index.llm import as_chat

    message = ChatMessage(role="user", blocks=[TextBlock(text="Who wrote it?"), TextBlock(text="Be brief.")])
    assert as_chat([message]) == [{"role": "user", "content": message.content}]


def test_a_model_that_was_given_is_not_another_one_after_pickling(llm):
    import pickle

    assert (llm.to_dict()["model"], llm.to_dict()["adapter"]) == (llm.metadata.model_name, "base")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(llm)


def test_the_shipped_adapter_loads_and_answers(real_model):
    from hybridmem_plugins.generation import loading

    real_model.load_adapter("rag", "smollm2-135m")
    try:
        reply = real_model.answer("Who wrote the program?", ["The program was written by Ada Lovelace."], adapter="rag")
        assert "Ada" in reply.text
        assert loading.resolve_adapter("smollm2-135m").endswith("smollm2-135m")
    finally:
        real_model.model = real_model.model.unload()
        real_model._adapters.clear()
        real_model._active = None
