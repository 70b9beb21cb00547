"""A LlamaIndex workflow that asks the vectors first, and the graph where they fall short; runs as it stands.

pip install 'hybridmem-plugins[llama-index]' && python examples/llama_index_workflow.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import TextNode
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step

from hybridmem_plugins.llama_index import HybridQueryEngine, HybridRetriever


class Reader(CustomLLM):
    """A fake LLM that knows one answer and says it where it reads it. Put your LLM here."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=2048, num_output=64, model_name="fake")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        known = "Charles Babbage" in prompt
        return CompletionResponse(text="Charles Babbage" if known else "The passages do not contain the answer.")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        yield self.complete(prompt)


class Declined(Event):
    question: str
    reason: str


class Answering(Workflow):
    def __init__(self, vectors: HybridQueryEngine, hybrid: HybridQueryEngine) -> None:
        super().__init__(timeout=60)
        self.vectors, self.hybrid = vectors, hybrid

    @step
    async def ask(self, event: StartEvent) -> Declined | StopEvent:
        response = await self.vectors.aquery(event.question)
        if response.metadata["abstained"]:
            return Declined(question=event.question, reason=response.metadata["reason"])
        return StopEvent(result=response)

    @step
    async def ask_the_graph(self, event: Declined) -> StopEvent:
        print("with vectors alone:", event.reason)
        return StopEvent(result=await self.hybrid.aquery(event.question))


nodes = [
    TextNode(text="Ada Lovelace wrote a program for the Analytical Engine.", metadata={"title": "Ada Lovelace"}),
    TextNode(text="It was designed by Charles Babbage.", metadata={"title": "Analytical Engine"}),
]


async def main() -> None:
    retriever = HybridRetriever.from_nodes(nodes, similarity_top_k=2)
    alone = HybridRetriever(retriever.memory, similarity_top_k=1, route="vector")
    vectors = HybridQueryEngine.from_args(alone, Reader(), max_facts=0)
    hybrid = HybridQueryEngine.from_args(retriever, Reader())
    response = await Answering(vectors, hybrid).run(question="Who designed the machine that Ada Lovelace wrote for?")
    print(response.response, response.metadata["citations"])
    for found in response.source_nodes:
        told = found.node.metadata
        print(f"  [{told['number']}] {told['title']}{'  (cited)' if told['cited'] else ''}")
    await retriever.aclose()


asyncio.run(main())
