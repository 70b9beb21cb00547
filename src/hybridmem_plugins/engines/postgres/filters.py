"""The filter language as SQL over a JSONB column, with the same answers as the embedded memory gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybridmem_plugins.engines.postgres.connection import Statement
from hybridmem_plugins.memory.filters import Combination, Condition, Expression, Filter, parse_filter
from hybridmem_plugins.memory.validation import check_text

_COMPARISON = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# A key with n dots may lead into nested metadata in 2**n ways.
_MOST_DOTS = 6


@dataclass(frozen=True, slots=True)
class Allowed(Statement):
    """A filter as SQL over the passages `p`.

    Attributes:
        indexed: The same in words that the index over metadata knows, for finding all that is allowed. The planner
            takes it for far narrower than most are, so that it is no good for testing what was found already.
    """

    indexed: Statement | None = None


def to_sql(query: Filter | None, column: str = "p.fields") -> Allowed | None:
    """Turn a filter into a condition; None where it allows all.

    Args:
        query: A filter as `compile_filter` describes it.
        column: The JSONB column.

    Raises:
        TypeError: The filter is a function, which no database can run, or has a wrong type in it.
        ValueError: An operator is unknown, or an operand cannot be written as JSONB.
    """
    if query is None or (isinstance(query, Mapping) and not query):
        return None
    if callable(query):
        msg = "PostgreSQL cannot run a function as a filter; write it as a dict, as {'tenant': 'a'}"
        raise TypeError(msg)
    expression = parse_filter(query)
    plain = _expression(expression, column, indexed=False)
    return Allowed(plain.sql, plain.parameters, _expression(expression, column, indexed=True))


def _expression(expression: Expression, column: str, *, indexed: bool) -> Statement:
    if isinstance(expression, Condition):
        return _condition(expression, column, indexed=indexed)
    parts = [_expression(part, column, indexed=indexed) for part in expression.parts]
    parameters = [value for part in parts for value in part.parameters]
    if expression.logic == "not":
        return Statement(f"NOT ({parts[0].sql})", parameters)
    return Statement(_joined(expression, parts), parameters)


def _joined(expression: Combination, parts: list[Statement]) -> str:
    if not parts:  # all of nothing holds, any of nothing does not
        return "true" if expression.logic == "and" else "false"
    return "(" + f" {expression.logic.upper()} ".join(part.sql for part in parts) + ")"


def _condition(condition: Condition, column: str, *, indexed: bool) -> Statement:
    value = _value(condition.key, column)
    operator, operand = condition.operator, condition.operand
    if operator == "$exists":
        return Statement(f"{value.sql} IS {'NOT ' if operand else ''}NULL", value.parameters)
    if operator in ("$eq", "$ne"):
        same = Statement(f"{value.sql} = %s::jsonb", [*value.parameters, _json(condition.key, operand)])
        if operator == "$ne":
            return Statement(f"NOT COALESCE({same.sql}, false)", same.parameters)
        return _with_index(condition, column, same) if indexed else _certain(same)
    if operator in ("$in", "$nin"):
        items = [_json(condition.key, item) for item in operand]
        within = f"COALESCE({value.sql} = ANY(%s::jsonb[]), false)"
        return Statement(f"{'NOT ' if operator == '$nin' else ''}{within}", [*value.parameters, items])
    if operator == "$contains":
        return _contains(condition, value)
    return _range(condition, value)


def _with_index(condition: Condition, column: str, same: Statement) -> Statement:
    """Let an equality use the index, which knows containment only."""
    exact = _certain(same)
    if "." in condition.key:
        return exact
    contained = _json(condition.key, {condition.key: condition.operand})
    return Statement(f"({column} @> %s::jsonb AND {exact.sql})", [contained, *same.parameters])


def _certain(comparison: Statement) -> Statement:
    """Return a comparison that is false where a value is missing."""
    return Statement(f"COALESCE({comparison.sql}, false)", comparison.parameters)


def _contains(condition: Condition, value: Statement) -> Statement:
    key, operand = condition.key, condition.operand
    element = f"EXISTS (SELECT FROM jsonb_array_elements({value.sql}) AS e(item) WHERE e.item = %s::jsonb)"
    element_parameters = [*value.parameters, _json(key, operand)]
    part, part_parameters = "false", []
    if isinstance(operand, str):
        part, part_parameters = f"position(%s::text in {value.sql} #>> '{{}}') > 0", [operand, *value.parameters]
    sql = f"CASE jsonb_typeof({value.sql}) WHEN 'array' THEN {element} WHEN 'string' THEN {part} ELSE false END"
    return Statement(sql, [*value.parameters, *element_parameters, *part_parameters])


def _range(condition: Condition, value: Statement) -> Statement:
    """Compare numbers as numbers and strings by code points, as Python does."""
    comparison, operand = _COMPARISON[condition.operator], condition.operand
    checked = _json(condition.key, operand)
    if isinstance(operand, str):
        kind, test, given = "string", f"({value.sql} #>> '{{}}') COLLATE \"C\" {comparison} %s", operand
    else:
        kind, test, given = "number", f"({value.sql} #>> '{{}}')::numeric {comparison} %s::numeric", checked
    sql = f"CASE jsonb_typeof({value.sql}) WHEN '{kind}' THEN {test} ELSE false END"
    return Statement(sql, [*value.parameters, *value.parameters, given])


def _value(key: str, column: str) -> Statement:
    """Return the value at a key: the key as it is spelled goes first, then dots lead inwards."""
    if key.count(".") > _MOST_DOTS:
        msg = f"the filter key {key!r} has more than {_MOST_DOTS} dots"
        raise ValueError(msg)
    check_text(key, f"the filter key {key!r}")
    if "\x00" in key:
        msg = f"the filter key {key!r} has a NUL character, which PostgreSQL cannot hold"
        raise ValueError(msg)
    paths = list(_paths(key))
    ways = [column + " -> %s::text" * len(path) for path in paths]
    sql = f"({ways[0]})" if len(ways) == 1 else f"COALESCE({', '.join(ways)})"
    return Statement(sql, [step for path in paths for step in path])


def _paths(key: str) -> Iterator[list[str]]:
    yield [key]
    position = key.find(".")
    while position >= 0:
        for rest in _paths(key[position + 1 :]):
            yield [key[:position], *rest]
        position = key.find(".", position + 1)


def _json(key: str, operand: Any) -> str:
    text = json.dumps(operand, ensure_ascii=False)
    check_text(text, f"the filter on {key!r} compares with a text that")
    if "\\u0000" in text.replace("\\\\", ""):  # a backslash before "u0000" is text
        msg = f"the filter on {key!r} compares with a text that has a NUL character, which PostgreSQL cannot hold"
        raise ValueError(msg)
    return text
