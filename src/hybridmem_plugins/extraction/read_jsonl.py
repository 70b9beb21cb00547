"""JSON lines to passages, record by record; the corpus files of BEIR among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hybridmem_plugins.passage import DEEPEST_METADATA, Passage

__all__ = ["jsonl_passages"]


def jsonl_passages(path: Path, source: str, on_skip: Callable[[Path, str], None]) -> Iterator[Passage]:
    """Read one passage a line: `text` and, if present, `title`, `id` or `_id`, and `metadata`, which other fields join.

    Args:
        path: File to read, line by line, so that it may be larger than the memory.
        source: Name of the file, for the metadata and for the ids of records that have none.
        on_skip: Receives the path and the reason, with its line number, for each line that is left out.

    Raises:
        OSError: The file cannot be read.
    """
    found = False
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if b"\0" in line:
                on_skip(path, "binary")
                return
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if not line.strip():
                continue
            found = True
            try:
                yield _passage(line, source, number)
            except (ValueError, RecursionError) as error:
                on_skip(path, f"line {number + 1}: {_reason(error)}")
    if not found:
        on_skip(path, "empty")


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "half of a surrogate pair, which no UTF-8 text can hold"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at column {error.colno})"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refuse(constant: str) -> NoReturn:
    msg = f"not JSON ({constant} is no JSON number)"
    raise ValueError(msg)


def _passage(line: bytes, source: str, number: int) -> Passage:
    """Turn a line into a passage, or raise ValueError with what is wrong."""
    record = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    if not isinstance(record, dict):
        msg = f"a JSON object is needed, not {type(record).__name__}"
        raise ValueError(msg)
    text, title = record.pop("text", None), record.pop("title", None)
    if not isinstance(text, str) or not text.strip():
        msg = "no 'text'" if text is None else "'text' is empty" if isinstance(text, str) else "'text' is not a string"
        raise ValueError(msg)
    if title is not None and not isinstance(title, str):
        msg = "'title' is not a string"
        raise ValueError(msg)
    passage = Passage(
        text=text,
        title=(title or "").strip() or None,
        id=_identifier(record) or f"{source}#{number}",
        metadata=_metadata(record, source),
    )
    if _deeper(passage.metadata, DEEPEST_METADATA):
        msg = f"nested deeper than {DEEPEST_METADATA} levels"
        raise ValueError(msg)
    # 1e999 is read as infinity, which no JSON can hold.
    json.dumps([text, title, passage.id, passage.metadata], ensure_ascii=False, allow_nan=False).encode()
    return passage


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in inner)


def _identifier(record: dict[str, Any]) -> str | None:
    """Take the id out of a record; `id` wins over `_id`, which then stays as metadata."""
    name = "id" if record.get("id") not in (None, "") else "_id"
    value = record.pop(name, None)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        msg = f"'{name}' is neither a string nor a whole number"
        raise ValueError(msg)
    return str(value)


def _metadata(record: dict[str, Any], source: str) -> dict[str, Any]:
    """Join the record's metadata with its other fields; the source of the record itself is kept if it names one."""
    inner = record.pop("metadata", None)
    record.pop("id", None)
    named = inner if isinstance(inner, dict) else {} if inner is None else {"metadata": inner}
    return {"source": source, **record, **named}
