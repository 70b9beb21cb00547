"""The filter language: which metadata a search may touch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Predicate = Callable[[Mapping[str, Any]], bool]
Filter = Mapping[str, Any] | Predicate

MISSING: Any = object()

OPERATORS = ("$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$exists", "$contains")
LOGIC = ("$and", "$or", "$not")
DEEPEST_FILTER = 100


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key, checked."""

    key: str
    operator: str
    operand: Any


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions joined by logic; `not` has one part."""

    logic: Literal["and", "or", "not"]
    parts: tuple[Condition | Combination, ...]


Expression = Condition | Combination


def parse_filter(query: Mapping[str, Any]) -> Expression:
    """Check a filter and turn it into an expression, whose operands are plain JSON values.

    Raises:
        TypeError: The filter, a list of conditions or an operand has the wrong type.
        ValueError: An operator is unknown, an operand is not plain JSON, or the filter is nested too deeply.
    """
    return _parse(query, 0)


def _parse(query: Mapping[str, Any], depth: int) -> Expression:
    if not isinstance(query, Mapping):
        msg = f"a filter is a dict or a callable, not {type(query).__name__}"
        raise TypeError(msg)
    _check_depth(depth)
    parts: list[Expression] = []
    for key, value in query.items():
        if not isinstance(key, str):
            msg = f"filter keys are strings, not {key!r}"
            raise TypeError(msg)
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple):
                msg = f"{key} takes a list of filters, not {type(value).__name__}"
                raise TypeError(msg)
            logic: Literal["and", "or"] = "and" if key == "$and" else "or"
            parts.append(Combination(logic, tuple(_parse(part, depth + 1) for part in value)))
        elif key == "$not":
            parts.append(Combination("not", (_parse(value, depth + 1),)))
        elif key.startswith("$"):
            raise _unknown(key)
        else:
            parts.extend(_parse_conditions(key, value, depth))
    return parts[0] if len(parts) == 1 else Combination("and", tuple(parts))


def compile_filter(query: Filter) -> Predicate:
    """Turn a filter into a function of one passage's metadata; everything is checked before the function is returned.

    A filter is a dict. `{"tenant": "a"}` asks for equality, several keys must all hold, and a dict of operators asks
    for more: `$eq`, `$ne`, `$in`, `$nin`, `$gt`, `$gte`, `$lt`, `$lte`, `$exists` (true or false) and `$contains` (an
    element of a list, or a part of a string). `$and` and `$or` take lists of filters, `$not` takes one.
    `{"author.name": "x"}` looks inside nested metadata (a key that is spelled with the dot goes first). Where a key is
    missing, `$ne`, `$nin` and `{"$exists": False}` hold and nothing else does. Values of different types are unequal
    and not comparable; numbers compare with numbers, and booleans are no numbers.

    Args:
        query: A filter, or a callable, which is returned as it is.

    Raises:
        TypeError: The filter, a list of conditions or an operand has the wrong type.
        ValueError: An operator is unknown, or an operand is not plain JSON.

    Example:
        >>> recent = compile_filter({"year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]}})
        >>> recent({"year": 2024, "lang": "de"}), recent({"lang": "de"})
        (True, False)
    """
    if callable(query):
        return query
    expression = parse_filter(query)
    return lambda metadata: evaluate(expression, metadata)


def both_filters(first: Filter | None, second: Filter | None) -> Filter | None:
    """Return a filter that asks for both.

    Raises:
        TypeError: One of them is neither a dict nor a callable.
    """
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {"$and": [first, second]}
    one, other = compile_filter(first), compile_filter(second)
    return lambda metadata: one(metadata) and other(metadata)


def evaluate(expression: Expression, metadata: Mapping[str, Any]) -> bool:
    """Return whether one passage's metadata fulfils an expression."""
    if isinstance(expression, Condition):
        return holds(expression, resolve(metadata, expression.key))
    if expression.logic == "not":
        return not evaluate(expression.parts[0], metadata)
    quantifier = all if expression.logic == "and" else any
    return quantifier(evaluate(part, metadata) for part in expression.parts)


def resolve(metadata: Mapping[str, Any], key: str) -> Any:
    """Return the value at a key, dots leading into nested mappings, or `MISSING`."""
    if key in metadata:
        return metadata[key]
    position = key.find(".")
    while position >= 0:
        inner = metadata.get(key[:position])
        if isinstance(inner, Mapping):
            value = resolve(inner, key[position + 1 :])
            if value is not MISSING:
                return value
        position = key.find(".", position + 1)
    return MISSING


def holds(condition: Condition, value: Any) -> bool:
    """Return whether a value (or `MISSING`) fulfils a condition."""
    operator, operand = condition.operator, condition.operand
    if operator == "$exists":
        return bool((value is not MISSING) == operand)
    if value is MISSING:
        return operator in ("$ne", "$nin")
    if operator == "$contains":
        if isinstance(value, str):
            return isinstance(operand, str) and operand in value
        return isinstance(value, list | tuple) and any(identity(item) == identity(operand) for item in value)
    if operator in ("$eq", "$ne"):
        return (identity(value) == identity(operand)) == (operator == "$eq")
    if operator in ("$in", "$nin"):
        return (identity(value) in {identity(item) for item in operand}) == (operator == "$in")
    return _in_range(operator, value, operand)


def identity(value: Any) -> tuple[str, Any]:
    """Return a hashable form that is equal exactly for values that filters treat as equal."""
    if value is None:
        return ("null", None)
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("string", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((key, identity(item)) for key, item in value.items()))
    return ("list", tuple(identity(item) for item in value))


def _in_range(operator: str, value: Any, operand: Any) -> bool:
    if identity(value)[0] != identity(operand)[0]:
        return False
    if operator == "$gt":
        return bool(value > operand)
    if operator == "$gte":
        return bool(value >= operand)
    if operator == "$lt":
        return bool(value < operand)
    return bool(value <= operand)


def _parse_conditions(key: str, value: Any, depth: int) -> list[Expression]:
    _check_depth(depth)
    if not isinstance(value, Mapping) or not any(isinstance(name, str) and name.startswith("$") for name in value):
        return [Condition(key, "$eq", _plain(key, value))]
    conditions: list[Expression] = []
    for operator, operand in value.items():
        if operator == "$not":
            inner = _parse_conditions(key, operand, depth + 1)
            conditions.append(Combination("not", (Combination("and", tuple(inner)),)))
            continue
        if operator not in OPERATORS:
            raise _unknown(operator)
        conditions.append(Condition(key, operator, _checked(key, operator, operand)))
    return conditions


def _check_depth(depth: int) -> None:
    if depth > DEEPEST_FILTER:
        msg = f"the filter is nested deeper than {DEEPEST_FILTER} levels (or contains itself)"
        raise ValueError(msg)


def _checked(key: str, operator: str, operand: Any) -> Any:
    if operator in ("$in", "$nin"):
        if not isinstance(operand, list | tuple | set | frozenset):
            msg = f"{operator} on {key!r} takes a list, not {type(operand).__name__}"
            raise TypeError(msg)
        operand = list(operand)
    if operator == "$exists" and not isinstance(operand, bool):
        msg = f"$exists on {key!r} takes True or False, not {operand!r}"
        raise TypeError(msg)
    if operator in ("$gt", "$gte", "$lt", "$lte") and (
        isinstance(operand, bool) or not isinstance(operand, int | float | str)
    ):
        msg = f"{operator} on {key!r} takes a number or a string, not {type(operand).__name__}"
        raise TypeError(msg)
    return _plain(key, operand)


def _plain(key: str, operand: Any) -> Any:
    """Return an operand as metadata holds it: a member of an Enum of strings, for example, as a plain string."""
    try:
        return json.loads(json.dumps(operand, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the filter on {key!r} compares with something that is not plain JSON: {error}"
        raise ValueError(msg) from None


def _unknown(operator: Any) -> ValueError:
    known = ", ".join((*OPERATORS, *LOGIC))
    return ValueError(f"unknown filter operator {operator!r}; known are {known}")
