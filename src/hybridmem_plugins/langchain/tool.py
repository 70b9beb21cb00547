"""A retriever as a tool for agents, with sources."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field, field_validator


class SearchInput(BaseModel):
    """What the model says to search."""

    query: str = Field(description="A question in natural language.")

    @field_validator("query")
    @classmethod
    def _asks_something(cls, query: str) -> str:
        # An agent tells its model of a bad argument; an error of the retriever itself would end the agent's run.
        if not query.strip():
            msg = "the query is empty"
            raise ValueError(msg)
        return query


def retriever_tool(retriever: BaseRetriever, name: str, description: str) -> BaseTool:
    """Return a tool that gives the model numbered passages with title and id, and the caller the documents.

    Args:
        retriever: What to ask.
        name: What the model calls it.
        description: Tells the model when to call it.
    """
    title_key = getattr(retriever, "title_key", None) or "title"

    def search(query: str, config: RunnableConfig) -> tuple[str, list[Document]]:
        documents = retriever.invoke(query, config)
        return cited(documents, title_key), documents

    async def asearch(query: str, config: RunnableConfig) -> tuple[str, list[Document]]:
        documents = await retriever.ainvoke(query, config)
        return cited(documents, title_key), documents

    return StructuredTool.from_function(
        search,
        asearch,
        name=name,
        description=description,
        args_schema=SearchInput,
        response_format="content_and_artifact",
    )


def cited(documents: Sequence[Document], title_key: str = "title") -> str:
    """Return documents as one text, each with its number, title and id.

    >>> print(cited([Document(id="p1", page_content="A text.", metadata={"title": "Ada"})]))
    [1] Ada (id: p1)
    A text.
    """
    if not documents:
        return "Nothing was found."
    parts = []
    for number, document in enumerate(documents, 1):
        head = f"[{number}] {document.metadata.get(title_key, '')}".rstrip()
        parts.append(f"{head} (id: {document.id})\n{document.page_content}")
    return "\n\n".join(parts)
