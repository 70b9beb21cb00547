from __future__ import annotations

import enum
import functools
from collections import UserDict
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins.memory.filters import compile_filter
from hybridmem_plugins.memory.metadata import MetadataIndex

NESTED = {"author": {"name": "Ada", "born": 1815}, "a.b": 1, "a": {"b": 2, "c": 3}}


@pytest.mark.parametrize(
    ("query", "metadata", "expected"),
    [
        ({"x": 1}, {"x": 1}, True),
        ({"x": 1}, {"x": 1.0}, True),
        ({"x": 1}, {"x": True}, False),
        ({"x": True}, {"x": 1}, False),
        ({"x": 1}, {"x": "1"}, False),
        ({"x": None}, {"x": None}, True),
        ({"x": None}, {}, False),
        ({"x": "a", "y": 2}, {"x": "a", "y": 2}, True),
        ({"x": "a", "y": 2}, {"x": "a"}, False),
        ({"x": [1, 2]}, {"x": [1, 2]}, True),
        ({"x": [1, 2]}, {"x": [2, 1]}, False),
        ({"x": {"y": 1}}, {"x": {"y": 1}}, True),
        ({"x": {"$eq": 1}}, {"x": 1}, True),
        ({"x": {"$ne": 1}}, {"x": 2}, True),
        ({"x": {"$ne": 1}}, {}, True),
        ({"x": {"$ne": 1}}, {"x": "1"}, True),
        ({"x": {"$in": [1, "a"]}}, {"x": "a"}, True),
        ({"x": {"$in": [1, "a"]}}, {}, False),
        ({"x": {"$in": []}}, {"x": 1}, False),
        ({"x": {"$nin": [1]}}, {}, True),
        ({"x": {"$nin": [1]}}, {"x": 1.0}, False),
        ({"x": {"$gt": 1, "$lte": 3}}, {"x": 3}, True),
        ({"x": {"$gt": 1}}, {"x": 1}, False),
        ({"x": {"$gte": "b"}}, {"x": "c"}, True),
        ({"x": {"$lt": 5}}, {"x": "4"}, False),
        ({"x": {"$lt": 5}}, {"x": True}, False),
        ({"x": {"$lt": 5}}, {"x": None}, False),
        ({"x": {"$lt": 5}}, {}, False),
        ({"x": {"$gt": 2**60}}, {"x": 2**60 + 1}, True),
        ({"x": {"$exists": True}}, {"x": None}, True),
        ({"x": {"$exists": False}}, {}, True),
        ({"x": {"$exists": False}}, {"x": 0}, False),
        ({"x": {"$contains": "b"}}, {"x": ["a", "b"]}, True),
        ({"x": {"$contains": 1}}, {"x": [True]}, False),
        ({"x": {"$contains": "bc"}}, {"x": "abcd"}, True),
        ({"x": {"$contains": 1}}, {"x": "1"}, False),
        ({"x": {"$not": {"$gt": 1}}}, {"x": 0}, True),
        ({"x": {"$not": {"$gt": 1}}}, {}, True),
        ({"$or": [{"x": 1}, {"y": 1}]}, {"y": 1}, True),
        ({"$or": []}, {"x": 1}, False),
        ({"$and": []}, {"x": 1}, True),
        ({"$and": [{"x": 1}, {"$not": {"y": 1}}]}, {"x": 1, "y": 1}, False),
        ({}, {"x": 1}, True),
        ({"author.name": "Ada"}, NESTED, True),
        ({"author.born": {"$lt": 1900}}, NESTED, True),
        ({"author.died": {"$exists": False}}, NESTED, True),
        ({"a.b": 1}, NESTED, True),
        ({"a.c": 3}, NESTED, True),
        ({"a": {"b": 2, "c": 3}}, NESTED, True),
    ],
)
def test_meaning(query: dict[str, Any], metadata: dict[str, Any], expected: bool) -> None:
    assert compile_filter(query)(metadata) is expected
    index = MetadataIndex()
    index.add([3], [metadata])
    assert index.mask(query).tolist() == [False, False, False, expected]


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ({"x": {"$regex": "a"}}, ValueError, r"'\$regex'.*\$contains"),
        ({"$xor": []}, ValueError, r"'\$xor'"),
        ({"x": {"$gt": 1, "y": 2}}, ValueError, "'y'"),
        ({"x": {"$in": "ab"}}, TypeError, "takes a list"),
        ({"x": {"$gt": None}}, TypeError, "number or a string"),
        ({"x": {"$gt": True}}, TypeError, "number or a string"),
        ({"x": {"$exists": 1}}, TypeError, "True or False"),
        ({"x": object()}, ValueError, "plain JSON"),
        ({"x": float("nan")}, ValueError, "plain JSON"),
        ({"$and": {"x": 1}}, TypeError, "list of filters"),
        ({"$or": [3]}, TypeError, "a dict or a callable"),
        ({"$not": [{"x": 1}]}, TypeError, "a dict or a callable"),
        ({1: 2}, TypeError, "filter keys"),
        ("x = 1", TypeError, "a dict or a callable"),
        (functools.reduce(lambda inner, _: {"$and": [inner]}, range(5000), {"x": 1}), ValueError, "nested deeper"),
        ({"x": functools.reduce(lambda inner, _: {"$not": inner}, range(5000), {"$eq": 1})}, ValueError, "deeper"),
    ],
)
def test_bad_filters_are_refused_before_anything_runs(query: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compile_filter(query)
    with pytest.raises(error, match=message):
        MetadataIndex().mask(query)


def test_a_callable_is_taken_as_it_is() -> None:
    assert compile_filter(lambda metadata: metadata.get("x") == 1)({"x": 1}) is True


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, 2.0**60]),
    st.sampled_from(["", "a", "ab", "b"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.sampled_from("xy"), SCALARS, max_size=2))
METADATA = st.dictionaries(st.sampled_from(["x", "y", "x.y", "z"]), VALUES, max_size=4)
KEYS = st.sampled_from(["x", "y", "x.y", "z.x", "w"])
ORDERED = st.one_of(st.integers(-3, 3), st.just(2**60 + 1), st.sampled_from(["", "a", "b"]))
CONDITIONS = st.one_of(
    VALUES.map(lambda value: {"$eq": value}),
    VALUES.map(lambda value: {"$ne": value}),
    st.lists(SCALARS, max_size=3).map(lambda values: {"$in": values}),
    st.lists(SCALARS, max_size=3).map(lambda values: {"$nin": values}),
    st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ORDERED).map(lambda pair: {pair[0]: pair[1]}),
    st.booleans().map(lambda value: {"$exists": value}),
    SCALARS.map(lambda value: {"$contains": value}),
)
FILTERS = st.recursive(
    st.dictionaries(KEYS, CONDITIONS, max_size=2),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: {"$and": parts}),
        st.lists(inner, max_size=3).map(lambda parts: {"$or": parts}),
        inner.map(lambda part: {"$not": part}),
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(METADATA, min_size=1, max_size=8), FILTERS, st.sets(st.integers(1, 8)))
def test_masks_say_what_the_compiled_filter_says(
    many: list[dict[str, Any]], query: dict[str, Any], gone: set[int]
) -> None:
    index = MetadataIndex()
    index.add(range(1, len(many) + 1), many)
    index.remove([row for row in gone if row <= len(many)])
    predicate = compile_filter(query)
    expected = [False] + [row not in gone and predicate(metadata) for row, metadata in enumerate(many, 1)]
    assert index.mask(query).tolist() == expected
    index.compact()
    assert index.mask(query).tolist() == expected


def test_a_mask_is_kept_until_something_changes() -> None:
    index = MetadataIndex()
    index.add([1], [{"x": 1}])
    first = index.mask({"x": 1})
    assert index.mask({"x": 1}) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True
    index.add([2], [{"x": 1}])
    assert np.flatnonzero(index.mask({"x": 1})).tolist() == [1, 2]
    for number in range(200):
        index.mask({"x": number})
    assert len(index._masks) <= 64


def test_filters_of_any_mapping_are_told_apart() -> None:
    index = MetadataIndex()
    index.add([1, 2], [{"tenant": "a"}, {"tenant": "b"}])
    for make in (MappingProxyType, UserDict):
        for row, tenant in enumerate("ab", 1):
            plain = make({"tenant": tenant})
            for query in (plain, {"tenant": make({"$eq": tenant})}, {"$and": [plain]}):
                assert np.flatnonzero(index.mask(query)).tolist() == [row], query


class Tenant(enum.StrEnum):
    A = "a"


@pytest.mark.parametrize("value", [Tenant.A, np.str_("a")])
def test_a_subclass_of_string_is_compared_as_the_string(value: str) -> None:
    index = MetadataIndex()
    index.add([1, 2], [{"tenant": "a"}, {"tenant": "b"}])
    for condition, rows in [(value, [1]), ({"$in": [value]}, [1]), ({"$ne": value}, [2]), ({"$nin": [value]}, [2])]:
        assert np.flatnonzero(index.mask({"tenant": condition})).tolist() == rows, condition


def test_keys_in_an_operand_are_strings_as_in_metadata() -> None:
    index = MetadataIndex()
    index.add([1], [{"x": {"1": "a", "b": "c"}}])
    for operand in ({1: "a", "b": "c"}, {"1": "a", "b": "c"}):
        assert np.flatnonzero(index.mask({"x": operand})).tolist() == [1]
