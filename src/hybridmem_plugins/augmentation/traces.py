"""What a retriever returned in production, read from the logs of LangChain, LlamaIndex or OpenInference."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.examples import as_passage, read_rows
from hybridmem_plugins.line_files import append_lines
from hybridmem_plugins.passage import Passage


@dataclass(frozen=True, slots=True)
class Trace:
    """One retrieval: the question, the passages best first, and the ids of the right ones where they are known."""

    question: str
    passages: tuple[Passage, ...]
    gold: frozenset[str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as the plain JSON that `read_trace` reads."""
        passages = [
            {"id": p.id, "title": p.title, "text": p.text, "metadata": {k: _plain(v) for k, v in p.metadata.items()}}
            for p in self.passages
        ]
        known = {} if self.gold is None else {"gold": sorted(self.gold)}
        return {"question": self.question, "passages": passages, **known}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class TraceLog:
    """Appends traces to a JSON-lines file; the shipped handlers of both frameworks write through it."""

    def __init__(self, path: str | Path) -> None:
        """Write to the end of a file, made where it is not there."""
        self.path = Path(path)
        self._lock = threading.Lock()

    def add(self, question: str, passages: Iterable[Any]) -> None:
        """Append one retrieval."""
        kept = tuple(as_passage(item) for item in passages if _has_text(item))
        with self._lock:
            append_lines(self.path, [Trace(question, kept).as_dict()])


_OWN_LINE = b'{"question"'


def _has_text(item: Any) -> bool:
    node = getattr(item, "node", item)
    text = getattr(node, "page_content", None) or getattr(node, "text", None)
    if text is None and callable(getattr(node, "get_content", None)):  # LlamaIndex's plain `Node` has no `text`
        text = node.get_content()
    return bool(text and text.strip())


def read_traces(source: str | Path | Iterable[Any]) -> Iterator[Trace]:
    """Read traces from a JSON-lines file or from objects; spans that are no retrievals are passed over.

    So is what a killed process left of a line of `TraceLog`. Known forms: this package's own; LangChain runs of type
    "retriever"; LlamaIndex `RetrievalEndEvent`s; OpenInference spans of kind RETRIEVER, attributes flat or nested.

    Raises:
        ValueError: Not one retrieval was found.
    """
    rows: Iterable[Any] = read_rows(source, torn=_OWN_LINE) if isinstance(source, str | Path) else source
    count = 0
    for row in rows:
        trace = row if isinstance(row, Trace) else read_trace(row)
        if trace is not None:
            count += 1
            yield trace
    if not count:
        where = f"{source}: " if isinstance(source, str | Path) else ""
        msg = f"{where}no retrieval found; expected LangChain retriever runs, LlamaIndex RetrievalEndEvents, " \
              "OpenInference RETRIEVER spans, or lines written by this package's handlers."  # fmt: skip
        raise ValueError(msg)


def read_trace(row: Any) -> Trace | None:
    """Read one logged object; None where it is no retrieval.

    >>> read_trace({"question": "Who?", "passages": [{"id": "1", "text": "Ada."}]}).passages[0].text
    'Ada.'
    """
    if not isinstance(row, Mapping):
        return None
    if "question" in row and "passages" in row:
        gold = row.get("gold")
        return _trace(row["question"], row["passages"], frozenset(map(str, gold)) if gold is not None else None)
    if row.get("run_type") == "retriever":
        return _trace((row.get("inputs") or {}).get("query"), (row.get("outputs") or {}).get("documents") or [])
    if row.get("class_name") == "RetrievalEndEvent":
        query = row.get("str_or_query_bundle")
        text = query.get("query_str") if isinstance(query, Mapping) else query
        return _trace(text, [_node(item) for item in row.get("nodes") or []])
    attributes = row.get("attributes")
    if isinstance(attributes, Mapping):
        return _span(attributes)
    return None


def _trace(question: Any, items: Sequence[Any], gold: frozenset[str] | None = None) -> Trace:
    passages = []
    for item in items:
        fields = item.get("kwargs", item) if isinstance(item, Mapping) else item
        text = fields.get("text", fields.get("page_content")) if isinstance(fields, Mapping) else fields
        if isinstance(text, str) and text.strip():
            passages.append(as_passage(fields))
    return Trace(str(question or ""), tuple(passages), gold)


def _node(item: Mapping[str, Any]) -> dict[str, Any]:
    node = item.get("node", item)
    return {"id": node.get("id_"), "text": node.get("text"), "metadata": node.get("metadata") or {}}


def _span(attributes: Mapping[str, Any]) -> Trace | None:
    flat = dict(_flatten(attributes))
    if flat.get("openinference.span.kind") != "RETRIEVER":
        return None
    documents: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        parts = key.split(".")
        if parts[:2] == ["retrieval", "documents"] and len(parts) >= 5 and parts[2].isdigit():
            documents.setdefault(int(parts[2]), {})[".".join(parts[4:])] = value
    items = []
    for _, fields in sorted(documents.items()):
        metadata = _metadata(fields.get("metadata"))
        nested = {key.removeprefix("metadata."): value for key, value in fields.items() if key.startswith("metadata.")}
        items.append({"id": fields.get("id"), "text": fields.get("content"), "metadata": {**metadata, **nested}})
    return _trace(flat.get("input.value"), items)


def _metadata(given: Any) -> Mapping[str, Any]:
    """Read what a span holds as JSON; tracers cut long attributes off, and then there is none to be had."""
    try:
        read = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return {}
    return read if isinstance(read, Mapping) else {}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{number}")
    else:
        yield prefix, value
