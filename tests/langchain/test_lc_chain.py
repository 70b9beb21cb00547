"""The chain: any retriever and any model of LangChain, sources, streaming, callbacks, checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from hybridmem_plugins.langchain import HybridRetriever, create_hybrid_chain

QUESTION = "Who designed the Analytical Engine?"
DOCUMENTS = [
    Document("It was designed by Charles Babbage.", metadata={"title": "Analytical Engine"}, id="engine"),
    Document("She wrote the first program.", metadata={"title": "Ada Lovelace"}, id="ada"),
    Document("Bread is baked from flour.", metadata={"title": "Bread", "tenant": "b"}, id="bread"),
]
ANSWER = "Charles Babbage"


@pytest.fixture
def retriever():
    made = HybridRetriever.from_documents(DOCUMENTS, k=3)
    yield made
    made.close()


def test_the_chain_answers_with_numbered_and_cited_documents(retriever) -> None:
    told = create_hybrid_chain(retriever, FakeListChatModel(responses=[ANSWER])).invoke(QUESTION)
    assert told["answer"] == told["reply"] == ANSWER
    assert [document.metadata["number"] for document in told["context"]] == [1, 2, 3]
    cited = [document for document in told["context"] if document.metadata["cited"]]
    assert [document.id for document in cited] == ["engine"]
    assert [document.metadata["number"] for document in cited] == told["citations"]
    assert "routes" in cited[0].metadata["hybridmem"]
    assert not told["abstained"]
    assert told["faithful"]


def test_any_retriever_takes_the_memorys_place() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(DOCUMENTS)
    told = create_hybrid_chain(store.as_retriever(), FakeListChatModel(responses=[ANSWER])).invoke(QUESTION)
    assert told["route"] == "retriever"
    assert [d.metadata["title"] for d in told["context"] if d.metadata["cited"]] == ["Analytical Engine"]
    as_runnable = RunnableLambda(lambda question: DOCUMENTS[:1])
    assert create_hybrid_chain(as_runnable, FakeListChatModel(responses=[ANSWER])).invoke(QUESTION)["citations"] == [1]


@pytest.mark.parametrize(
    "model",
    [
        FakeListChatModel(responses=[ANSWER]),
        FakeListLLM(responses=[ANSWER]),
        RunnableLambda(lambda messages: ANSWER),
        FakeListChatModel(responses=[ANSWER]) | RunnableLambda(lambda message: message.content),
    ],
    ids=["chat", "text", "function", "sequence"],
)
async def test_any_model_takes_the_fine_tuned_ones_place(retriever, model: Any) -> None:
    chain = create_hybrid_chain(retriever, model)
    assert chain.invoke(QUESTION)["answer"] == ANSWER
    assert (await chain.ainvoke(QUESTION))["answer"] == ANSWER


async def test_streamed_pieces_add_up_to_the_answer(retriever) -> None:
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=[ANSWER]))
    whole = chain.invoke(QUESTION)
    pieces = list(chain.stream(QUESTION))
    assert len(pieces) > 5
    added = pieces[0]
    for piece in pieces[1:]:
        added = added + piece
    apieces = [piece async for piece in chain.astream(QUESTION)]
    assert [p.get("reply") for p in apieces] == [p.get("reply") for p in pieces]
    for key in ("input", "answer", "reply", "context", "citations", "abstained"):
        assert added[key] == whole[key], key


def test_filters_reach_the_memory_and_nothing_else(retriever) -> None:
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=["flour"]))
    told = chain.invoke({"input": "What is bread baked from?", "filter": {"tenant": "b"}})
    assert [document.id for document in told["context"]] == ["bread"]
    foreign = create_hybrid_chain(RunnableLambda(lambda question: DOCUMENTS), FakeListChatModel(responses=["x"]))
    with pytest.raises(ValueError, match="takes no filter"):
        foreign.invoke({"input": QUESTION, "filter": {"tenant": "b"}})


def test_an_unsupported_answer_is_withheld_but_the_reply_is_told(retriever) -> None:
    told = create_hybrid_chain(retriever, FakeListChatModel(responses=["Konrad Zuse"])).invoke(QUESTION)
    assert told["abstained"]
    assert told["reply"] == "Konrad Zuse"
    assert "none of its sources" in told["reason"]


def test_bad_input_says_what_is_wrong(retriever) -> None:
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=["x"]))
    with pytest.raises(ValueError, match="has no 'input'"):
        chain.invoke({"text": "?"})
    with pytest.raises(TypeError, match="not a int"):
        chain.invoke(3)  # type: ignore[arg-type]


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("chain")

    def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("retriever")

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("model")


async def test_callbacks_reach_the_retriever_and_the_model(retriever) -> None:
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=[ANSWER]))
    heard = Heard()
    chain.invoke(QUESTION, {"callbacks": [heard]})
    assert heard.events == ["chain", "retriever", "model"]
    heard.events.clear()
    await chain.ainvoke(QUESTION, {"callbacks": [heard]})
    assert heard.events == ["chain", "retriever", "model"]


def test_the_chain_composes_and_batches(retriever) -> None:
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=[ANSWER]))
    shout = (
        RunnableLambda(lambda question: question + "?") | chain | RunnableLambda(lambda told: told["answer"].upper())
    )
    assert shout.batch(["Who designed it", "Who built it"]) == [ANSWER.upper()] * 2
