"""Record what retrievers return, for `NoiseProfile.from_traces`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent

from hybridmem_plugins.augmentation.traces import TraceLog


class RetrievalTraceHandler(BaseEventHandler):
    """Appends every retrieval to a JSON-lines file: `get_dispatcher().add_event_handler(handler)`.

    The file holds questions and texts; the profile learnt from it holds neither.
    """

    path: str
    _log: TraceLog = PrivateAttr()

    def __init__(self, path: str | Path) -> None:
        """Write to the end of a file."""
        # The declared base has no fields of its own, so pydantic's keyword is unknown to the type checker.
        super().__init__(path=str(path))  # type: ignore[call-arg]
        self._log = TraceLog(path)

    @classmethod
    def class_name(cls) -> str:
        """Name the handler."""
        return "RetrievalTraceHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Write a finished retrieval down; other events pass."""
        if isinstance(event, RetrievalEndEvent):
            asked = event.str_or_query_bundle
            self._log.add(asked if isinstance(asked, str) else asked.query_str, event.nodes)
