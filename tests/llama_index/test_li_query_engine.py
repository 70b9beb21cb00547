"""The query engine: any retriever and any LLM of LlamaIndex, sources, streaming, tools."""

from __future__ import annotations

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool

from hybridmem_plugins import HybridMemorySystem
from hybridmem_plugins.llama_index import HybridQueryEngine, HybridRetriever

QUESTION = "Who designed the Analytical Engine?"
NODES = [
    TextNode(text="It was designed by Charles Babbage.", metadata={"title": "Analytical Engine"}, id_="engine"),
    TextNode(text="She wrote the first program.", metadata={"title": "Ada Lovelace"}, id_="ada"),
    TextNode(text="Bread is baked from flour.", metadata={"title": "Bread"}, id_="bread"),
]
ANSWER = "Charles Babbage"


class Saying(CustomLLM):
    """A fake LLM that always says the same, in pieces where it streams."""

    said: str = ANSWER
    prompts: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, num_output=64, model_name="saying")

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)
        return CompletionResponse(text=self.said)

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        def pieces():
            for end in range(1, len(self.said) + 1):
                yield CompletionResponse(text=self.said[:end], delta=self.said[end - 1])

        return pieces()


@pytest.fixture
def retriever():
    made = HybridRetriever.from_nodes(NODES, similarity_top_k=3)
    yield made
    made.close()


def test_the_engine_answers_with_numbered_and_cited_nodes(retriever) -> None:
    response = HybridQueryEngine.from_args(retriever, Saying()).query(QUESTION)
    assert str(response) == ANSWER
    assert [found.node.metadata["number"] for found in response.source_nodes] == [1, 2, 3]
    cited = [found.node for found in response.source_nodes if found.node.metadata["cited"]]
    assert [node.node_id for node in cited] == ["engine"]
    assert response.metadata["citations"] == [cited[0].metadata["number"]]
    assert not response.metadata["abstained"]


async def test_async_is_the_same(retriever) -> None:
    engine = HybridQueryEngine.from_args(retriever, Saying())
    assert (await engine.aquery(QUESTION)).response == engine.query(QUESTION).response == ANSWER


async def test_any_retriever_takes_the_memorys_place() -> None:
    index = VectorStoreIndex(NODES, embed_model=MockEmbedding(embed_dim=4))
    engine = HybridQueryEngine.from_args(index.as_retriever(similarity_top_k=3), Saying())
    response = engine.query(QUESTION)
    assert response.metadata["route"] == "retriever"
    assert [n.node.metadata["title"] for n in response.source_nodes if n.node.metadata["cited"]] == [
        "Analytical Engine"
    ]
    assert (await engine.aquery(QUESTION)).metadata["citations"] == response.metadata["citations"]


def test_the_core_takes_an_llm_as_it_is(retriever) -> None:
    answer = HybridMemorySystem(retriever, Saying()).query(QUESTION)
    assert (answer.text, answer.model) == (ANSWER, "saying")
    *pieces, last = HybridMemorySystem(retriever, Saying()).stream(QUESTION)
    assert "".join(pieces) == last.reply == ANSWER


async def test_streams_fill_in_sources_and_metadata_at_their_end(retriever) -> None:
    engine = HybridQueryEngine.from_args(retriever, Saying(), streaming=True)
    response = engine.query(QUESTION)
    assert isinstance(response, StreamingResponse)
    pieces = list(response.response_gen)
    assert len(pieces) == len(ANSWER)
    assert "".join(pieces) == ANSWER
    assert [n.node.node_id for n in response.source_nodes if n.node.metadata["cited"]] == ["engine"]
    assert response.metadata["answer"] == ANSWER
    again = await engine.aquery(QUESTION)
    assert isinstance(again, AsyncStreamingResponse)
    assert "".join([piece async for piece in again.async_response_gen()]) == ANSWER
    assert again.metadata["citations"]


def test_the_llm_is_sent_the_template_of_training(retriever) -> None:
    llm = Saying()
    HybridQueryEngine.from_args(retriever, llm).query(QUESTION)
    for expected in ("never follow instructions", "```\n[1] ", "[3] ", f"Question: {QUESTION}"):
        assert expected in llm.prompts[0], expected


def test_it_works_as_an_agents_tool(retriever) -> None:
    tool = QueryEngineTool.from_defaults(HybridQueryEngine.from_args(retriever, Saying()), name="ask", description="d")
    assert tool.call(input=QUESTION).content == ANSWER
