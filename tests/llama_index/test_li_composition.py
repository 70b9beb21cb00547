"""HybridRetriever inside LlamaIndex's query engines, fusion, routers, tools, agents and pipelines."""

from __future__ import annotations

from typing import Any

from li_helpers import WordEmbedding, nodes
from llama_index.core import VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever, RouterRetriever
from llama_index.core.schema import Document, QueryBundle
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import RetrieverTool

from hybridmem_plugins.llama_index import HybridRetriever

QUESTION = "Who designed the machine that Ada Lovelace wrote for?"


def ids(found: Any) -> list[str]:
    return [one.node_id for one in found]


async def test_query_engine(retriever: HybridRetriever) -> None:
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    response = engine.query(QUESTION)
    assert ids(response.source_nodes) == ids(retriever.retrieve(QUESTION))
    assert "designed by Charles Babbage" in str(response)  # the mock repeats its prompt
    assert "routes" not in str(response)  # models do not see why a node was found
    again = await retriever.as_query_engine(llm=MockLLM()).aquery(QUESTION)
    assert str(again) == str(response)


async def test_fusion_knows_a_node_that_another_retriever_found_too(retriever: HybridRetriever) -> None:
    vectors = VectorStoreIndex(nodes(), embed_model=WordEmbedding()).as_retriever(similarity_top_k=6)
    for mode in ("reciprocal_rerank", "relative_score", "simple"):
        fusion = QueryFusionRetriever(
            [vectors, retriever], llm=MockLLM(), mode=mode, num_queries=1, similarity_top_k=12, use_async=False
        )
        found = fusion.retrieve(QUESTION)
        assert sorted(ids(found)) == [f"n{n}" for n in range(6)]
    assert sorted(ids(await fusion.aretrieve(QUESTION))) == [f"n{n}" for n in range(6)]


def test_router(retriever: HybridRetriever) -> None:
    class First(MockLLM):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            response = super().complete("x", formatted, **kwargs)
            response.text = '[{"choice": 1, "reason": "only one"}]'
            return response

    tool = RetrieverTool.from_defaults(retriever, description="Everything.")
    router = RouterRetriever(LLMSingleSelector.from_defaults(llm=First()), [tool], llm=MockLLM())
    assert ids(router.retrieve(QUESTION)) == ids(retriever.retrieve(QUESTION))


async def test_tools(retriever: HybridRetriever) -> None:
    tool = RetrieverTool.from_defaults(retriever, description="Everything.")
    for output in (tool.call(input=QUESTION), await tool.acall(input=QUESTION), tool.call(QUESTION)):
        assert output.raw_output == retriever.retrieve(QUESTION)
    own = retriever.as_tool("search", "Everything.")
    assert list(own.metadata.get_parameters_dict()["properties"]) == ["query"]
    text = str(own.call(query=QUESTION))
    assert text == str(await own.acall(query=QUESTION))
    assert "Analytical Engine (id: n1)" in text


async def test_function_agent(retriever: HybridRetriever) -> None:
    calls: list[list[ChatMessage]] = []

    def answer(messages: list[ChatMessage], **kwargs: Any) -> ChatMessage:
        calls.append(list(messages))
        if len(calls) == 1:
            call = ToolCallBlock(tool_call_id="1", tool_name="search", tool_kwargs={"query": QUESTION})
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content="Charles Babbage")

    llm = MockFunctionCallingLLM(response_generator=answer)
    agent = FunctionAgent(tools=[retriever.as_tool("search", "Everything.")], llm=llm, streaming=False)
    response = await agent.run(QUESTION)
    assert "Charles Babbage" in str(response)
    assert "Analytical Engine (id: n1)" in str(calls[1][-1].content)


def test_ingestion_pipeline() -> None:
    model = WordEmbedding()
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), model])
    made = pipeline.run(documents=[Document(id_="d", text="Helium is a light gas. " * 40)])
    retriever = HybridRetriever.from_nodes(made, model)
    assert len(retriever.memory) == len(made) > 1
    assert {n.node.ref_doc_id for n in retriever.retrieve("helium")} == {"d"}


async def test_spans_events_and_callbacks(retriever: HybridRetriever) -> None:
    spans, events = SimpleSpanHandler(), []

    class Events(BaseEventHandler):
        def handle(self, event: Any, **kwargs: Any) -> None:
            events.append(event.class_name())

    root = get_dispatcher()
    kept = list(root.span_handlers), list(root.event_handlers)
    root.add_span_handler(spans)
    root.add_event_handler(Events())
    try:
        retriever.retrieve(QUESTION)
        await retriever.aretrieve(QUESTION)
    finally:
        root.span_handlers, root.event_handlers = kept
    names = {span.id_.rsplit("-", 5)[0] for span in spans.completed_spans}
    assert {"HybridRetriever._retrieve", "HybridRetriever._aretrieve"} <= names
    assert events.count("RetrievalStartEvent") == events.count("RetrievalEndEvent") == 2
    debug = LlamaDebugHandler(print_trace_on_end=False)
    HybridRetriever(retriever.memory, callback_manager=CallbackManager([debug])).retrieve(QueryBundle(QUESTION))
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 1
