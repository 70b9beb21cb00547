"""Record what retrievers return, for `NoiseProfile.from_traces`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document

from hybridmem_plugins.augmentation.traces import TraceLog


class RetrievalTraceHandler(BaseCallbackHandler):
    """Appends every retrieval to a JSON-lines file: `chain.invoke(question, config={"callbacks": [handler]})`.

    The file holds questions and texts; the profile learnt from it holds neither.
    """

    def __init__(self, path: str | Path) -> None:
        """Write to the end of a file."""
        self.log = TraceLog(path)
        self._questions: dict[UUID, str] = {}

    def on_retriever_start(self, serialized: dict[str, Any] | None, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """Keep the question until the documents come."""
        self._questions[run_id] = query

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """Write the retrieval down."""
        self.log.add(self._questions.pop(run_id, ""), documents)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Forget the question."""
        self._questions.pop(run_id, None)
