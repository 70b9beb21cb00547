"""The hybrid chain as a node of a LangGraph graph with checkpoints; runs as it stands, with a fake model.

Each thread keeps its turns. A run that stopped before its answer goes on from its last checkpoint, and an earlier
state can be asked for again after the memory has changed.

pip install 'hybridmem-plugins[langchain]' langgraph && python examples/langgraph_checkpoints.py
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from hybridmem_plugins.langchain import HybridRetriever, create_hybrid_chain

documents = [
    Document("Ada Lovelace wrote the first program, for the Analytical Engine.", metadata={"title": "Ada Lovelace"}),
    Document("It was designed by Charles Babbage.", metadata={"title": "Analytical Engine"}, id="engine"),
]
retriever = HybridRetriever.from_documents(documents, k=2)
model = FakeListChatModel(responses=["Charles Babbage", "Konrad Zuse"])  # Put your chat model here.
chain = create_hybrid_chain(retriever, model)


class State(TypedDict):
    question: str
    turns: Annotated[list[dict[str, Any]], operator.add]


def answer(state: State) -> dict[str, Any]:
    told = chain.invoke(state["question"])
    sources = [document.metadata["title"] for document in told["context"] if document.metadata["cited"]]
    # Only plain values: a checkpoint outlives the program.
    return {"turns": [{"question": state["question"], "answer": told["answer"], "sources": sources}]}


graph = StateGraph(State)
graph.add_node("answer", answer)
graph.add_edge(START, "answer")
graph.add_edge("answer", END)
app = graph.compile(checkpointer=InMemorySaver(), interrupt_before=["answer"])

thread: Any = {"configurable": {"thread_id": "visitor"}}
app.invoke({"question": "Who designed the machine that Ada Lovelace wrote for?", "turns": []}, thread)
print("stopped before:", app.get_state(thread).next)  # a person may look first
app.invoke(None, thread)
print("answered:", app.get_state(thread).values["turns"])

changed = Document("It was designed by Konrad Zuse.", metadata={"title": "Analytical Engine"}, id="engine")
retriever.add_documents([changed])  # the same id replaces
before = next(state for state in app.get_state_history(thread) if state.next == ("answer",))
again = app.invoke(None, before.config)  # the same question, from its checkpoint
print("after the passage changed:", again["turns"][-1])
retriever.close()
