"""A retriever as a tool for agents, with sources."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.tools import FunctionTool


def retriever_tool(retriever: BaseRetriever, name: str, description: str) -> FunctionTool:
    """Return a tool that gives a model numbered passages with title and id.

    Args:
        retriever: What to ask.
        name: What the model calls it.
        description: Tells the model when to call it.
    """

    def search(query: str) -> str:
        return cited(retriever.retrieve(query))

    async def asearch(query: str) -> str:
        return cited(await retriever.aretrieve(query))

    return FunctionTool.from_defaults(search, name=name, description=description, async_fn=asearch)


def cited(nodes: Sequence[NodeWithScore]) -> str:
    """Return nodes as one text, each with its number, title and id.

    >>> from llama_index.core.schema import TextNode
    >>> print(cited([NodeWithScore(node=TextNode(id_="n1", text="A text.", metadata={"title": "Ada"}))]))
    [1] Ada (id: n1)
    A text.
    """
    if not nodes:
        return "Nothing was found."
    parts = []
    for number, found in enumerate(nodes, 1):
        head = f"[{number}] {found.node.metadata.get('title', '')}".rstrip()
        parts.append(f"{head} (id: {found.node.node_id})\n{found.node.get_content(MetadataMode.NONE)}")
    return "\n\n".join(parts)
