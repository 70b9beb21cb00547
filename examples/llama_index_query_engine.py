"""A LlamaIndex query engine over a hybrid memory; runs as it stands, with a mock model.

pip install 'hybridmem-plugins[llama-index]' && python examples/llama_index_query_engine.py
"""

from __future__ import annotations

from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import TextNode

from hybridmem_plugins.llama_index import HybridRetriever

nodes = [
    TextNode(
        text="Ada Lovelace wrote the first program, for the Analytical Engine.", metadata={"title": "Ada Lovelace"}
    ),
    TextNode(text="It was designed by Charles Babbage and never finished.", metadata={"title": "Analytical Engine"}),
    TextNode(text="Helium was first seen in the spectrum of the sun.", metadata={"title": "Helium"}),
]
question = "Who designed the machine that Ada Lovelace wrote for?"

# Add persist_dir="memory" to keep it, and embed_model=... for another model than the bundled one.
retriever = HybridRetriever.from_nodes(nodes, similarity_top_k=2)
engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())  # Put your model here; the mock repeats its prompt.

response = engine.query(question)
print(response)
for found in response.source_nodes:
    why = found.node.metadata["hybridmem"]
    print(f"{found.score:.3f}  {found.node.metadata['title']}  found by {', '.join(why['routes'])}")
    for step in why["path"]:
        print(f"       from {step['from_title']}, which says: {step['sentence']}")
retriever.close()
