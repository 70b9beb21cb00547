"""What of a filter a vector database can be asked: a condition that all allowed passages fulfil, and perhaps others.

Databases differ in what equality means (numbers and lists, missing keys), so only what means the same everywhere is
handed on; what is left of the filter is held against the answers. A search is then right whatever the database can do,
and fast where it can do the most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hybridmem_plugins.memory.filters import Condition, Expression, parse_filter

_RANGES = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# Whole numbers beyond are not the same number everywhere.
_EXACT = 2**53


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison of a metadata key with a string, or a number, or a list of strings (`in`)."""

    key: str
    operator: Literal["=", "in", ">", ">=", "<", "<="]
    value: Any


@dataclass(frozen=True, slots=True)
class Joined:
    """Tests that must all hold, or one of them."""

    logic: Literal["and", "or"]
    parts: tuple[Compared | Joined, ...]


Push = Compared | Joined


def pushed(query: Any) -> Push | None:
    """Return what to ask a database for a filter; None where it can be asked nothing.

    Args:
        query: A filter as a dict, or anything else, of which nothing is known.

    >>> pushed({"tenant": "a", "draft": {"$ne": True}})
    Compared(key='tenant', operator='=', value='a')
    """
    return _push(parse_filter(query)) if isinstance(query, Mapping) and query else None


def _push(expression: Expression) -> Push | None:
    if isinstance(expression, Condition):
        return _test(expression)
    if expression.logic == "not":
        return None
    parts = [_push(part) for part in expression.parts]
    known = tuple(part for part in parts if part is not None)
    if expression.logic == "or" and len(known) < len(parts):
        return None
    if len(known) <= 1:
        return known[0] if known else None
    return Joined(expression.logic, known)


def _test(condition: Condition) -> Push | None:
    key, operator, value = condition.key, condition.operator, condition.operand
    if "." in key or not key.isidentifier():
        return None
    if operator == "$eq" and isinstance(value, str):
        return Compared(key, "=", value)
    if operator == "$in" and value and all(isinstance(item, str) for item in value):
        return Compared(key, "in", list(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= _EXACT:
        return None
    if operator == "$eq":  # as a range, since 1 and 1.0 are one number here and two elsewhere
        return Joined("and", (Compared(key, ">=", value), Compared(key, "<=", value)))
    return Compared(key, _RANGES[operator], value) if operator in _RANGES else None  # type: ignore[arg-type]


def shown(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a passage's metadata that a database is given: strings and numbers that tests can name."""
    return {
        key: value
        for key, value in metadata.items()
        if key.isidentifier() and isinstance(value, str | int | float) and not isinstance(value, bool)
    }
