"""A retriever as a tool for agents, and the question in what other tools make of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.tools import FunctionTool

# `RetrieverTool.call(input="what")` asks its retriever "\ninput is what\n".
_WRAPPED = re.compile(r"\n(?:input|query|query_str|question) is (.*)\n", re.DOTALL)


def question_of(query_bundle: QueryBundle) -> str:
    r"""Return the question of a query, without what a `RetrieverTool` wraps around it.

    >>> question_of(QueryBundle("\ninput is Who was Ada?\n"))
    'Who was Ada?'
    """
    text = query_bundle.query_str
    wrapped = _WRAPPED.fullmatch(text) if isinstance(text, str) else None
    if wrapped is not None:
        text = wrapped[1]
    return text.strip() if isinstance(text, str) else text


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
