"""Checks on what a caller wants to store or delete, before anything is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hybridmem_plugins.memory.filters import Condition, Expression, Filter, parse_filter
from hybridmem_plugins.passage import DEEPEST_METADATA, Passage


@dataclass(frozen=True, slots=True)
class Entry:
    """A checked passage with an id, a title that is never None when stored as text, and its metadata as JSON."""

    passage: Passage
    id: str
    metadata_json: str

    @property
    def key(self) -> tuple[str | None, str, str]:
        """What must be equal for two entries to say the same."""
        return (self.passage.title, self.passage.text, self.metadata_json)


def check_passages(passages: Sequence[Passage]) -> list[Entry]:
    """Check passages and give each one an id.

    Args:
        passages: What a caller wants to add.

    Returns:
        One entry a passage, in order.

    Raises:
        TypeError: Something is no `Passage`, or a field has the wrong type.
        ValueError: A text or id is empty, a text cannot be stored as UTF-8, metadata is not JSON, or two passages have
            the same id.
    """
    if isinstance(passages, Passage | str | bytes | Mapping):
        msg = f"passages must be a list of Passage, not one {type(passages).__name__}"
        raise TypeError(msg)
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for position, passage in enumerate(passages):
        entry = _check_passage(passage, position)
        first = seen.setdefault(entry.id, position)
        if first != position and (passage.id is not None or entries[first].key != entry.key):
            msg = f"passages {first} and {position} have the same id {entry.id!r}"
            raise ValueError(msg)
        entries.append(entry)
    return entries


def derived_id(title: str | None, text: str, metadata_json: str) -> str:
    """Return the id of a passage that came without one.

    Metadata counts: one tenant's copy of a text must not replace another's.

    >>> derived_id(None, "text", '{"tenant":"a"}') == derived_id(None, "text", '{"tenant":"b"}')
    False
    """
    # The length keeps ("ab", "c") apart from ("a", "bc"), and a missing title from an empty one.
    head = b"-" if title is None else b"%d:%s" % (len(title), title.encode())
    body = b"%d:%s%s" % (len(text), text.encode(), metadata_json.encode())
    return hashlib.sha256(head + b"\n" + body).hexdigest()[:32]


def positive(name: str, value: Any) -> int:
    """Return a setting that counts something as a plain int, also where it is one of NumPy's.

    Raises:
        TypeError: It is no integer.
        ValueError: It is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"{name} must be an integer, not {type(value).__name__}"
        raise TypeError(msg)
    if value < 1:
        msg = f"{name} must be at least 1, not {value}"
        raise ValueError(msg)
    return int(value)


def check_ids(ids: Sequence[str]) -> list[str]:
    """Return ids as a list.

    Raises:
        TypeError: The ids are one string, or one of them is no string.
    """
    if isinstance(ids, str | bytes):
        msg = "ids must be a list of strings, not one string"
        raise TypeError(msg)
    checked = list(ids)
    for item in checked:
        if not isinstance(item, str):
            msg = f"ids must be strings, not {item!r}"
            raise TypeError(msg)
    return checked


def check_deleting(query: Filter) -> None:
    """Refuse a filter that would delete every passage because it asks for nothing, such as `{}` or `{"$and": []}`.

    Raises:
        TypeError: The filter is malformed; as `parse_filter` raises it.
        ValueError: The filter asks for nothing, or is malformed.
    """
    if not callable(query) and _constant(parse_filter(query)) is not None:
        msg = "an empty filter would delete every passage; delete them by id"
        raise ValueError(msg)


def _constant(expression: Expression) -> bool | None:
    """Return what an expression is whatever the metadata; None where that depends on a condition."""
    if isinstance(expression, Condition):
        return None
    parts = [_constant(part) for part in expression.parts]
    if expression.logic == "not":
        return None if parts[0] is None else not parts[0]
    decisive = expression.logic == "or"
    return decisive if decisive in parts else None if None in parts else not decisive


def _check_passage(passage: Passage, position: int) -> Entry:
    if not isinstance(passage, Passage):
        msg = f"passage {position} is a {type(passage).__name__}, not a Passage"
        raise TypeError(msg)
    where = f"passage {position}" + (f" (id {passage.id!r})" if isinstance(passage.id, str) else "")
    _check_string(passage.text, where, "text")
    if not passage.text.strip():
        msg = f"{where}: its text is empty"
        raise ValueError(msg)
    if passage.title is not None:
        _check_string(passage.title, where, "title")
    if passage.id is not None:
        _check_string(passage.id, where, "id")
        if not passage.id:
            msg = f"{where}: its id is empty; leave it out to have one derived"
            raise ValueError(msg)
    if not isinstance(passage.metadata, Mapping):
        msg = f"{where}: its metadata is a {type(passage.metadata).__name__}, not a dict"
        raise TypeError(msg)
    _check_json(passage.metadata, where, "metadata", 0)
    try:
        text = json.dumps(passage.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=dict)
    except ValueError as error:  # an int of thousands of digits
        msg = f"{where}: its metadata cannot be stored: {error}"
        raise ValueError(msg) from None
    return Entry(passage, derived_id(passage.title, passage.text, text) if passage.id is None else passage.id, text)


def _check_string(value: Any, where: str, what: str) -> None:
    if not isinstance(value, str):
        msg = f"{where}: its {what} is a {type(value).__name__}, not a string"
        raise TypeError(msg)
    check_text(value, f"{where}: its {what}")


def check_text(text: str, what: str) -> None:
    """Refuse a string that is no text: one with half of a surrogate pair.

    Raises:
        ValueError: It is none; the message begins with `what`.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        msg = (
            f"{what} has a lone surrogate {text[error.start]!r} at {error.start}, which no file can "
            'hold; replace it, for example with text.encode("utf-8", "replace").decode()'
        )
        raise ValueError(msg) from None


def _check_json(value: Any, where: str, what: str, depth: int) -> None:
    if depth > DEEPEST_METADATA:
        msg = f"{where}: its metadata is nested deeper than {DEEPEST_METADATA} levels (or contains itself)"
        raise ValueError(msg)
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, str):
        _check_string(value, where, what)
    elif isinstance(value, float):
        if not math.isfinite(value):
            msg = f"{where}: {what} is {value}, which JSON cannot hold"
            raise ValueError(msg)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                msg = f"{where}: {what} has the key {key!r}, which is no string"
                raise TypeError(msg)
            _check_string(key, where, f"{what} key")
            _check_json(item, where, f"{what}[{key!r}]", depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, where, f"{what}[]", depth + 1)
    else:
        kind = type(value)
        # numpy calls its own truth value "bool", and its numbers are no JSON either.
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__name__} ({kind.__module__})"
        msg = f"{where}: {what} is a {name}; metadata holds JSON only (None, booleans, numbers, strings, lists, dicts)"
        raise TypeError(msg)
