"""Filters as SQL say what filters say in Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridmem_plugins import Passage
from hybridmem_plugins.engines import open_engine
from hybridmem_plugins.engines.postgres.filters import to_sql
from hybridmem_plugins.memory.filters import compile_filter

sys.path.insert(0, str(Path(__file__).parent.parent / "memory"))
from test_filters import FILTERS, METADATA, NESTED

EXAMPLES = [
    NESTED, {}, {"x": 1}, {"x": 1.0}, {"x": True}, {"x": "1"}, {"x": None}, {"x": [1, 2]}, {"x": [True]},
    {"x": {"y": 1}}, {"x": "abcd"}, {"x": 2**60 + 1}, {"x": -0.0}, {"x": 1e22}, {"x": "ä"}, {"x": "a%b_c'\\"},
    {"x.y": {"z": 1}, "x": {"y": {"z": 2}}}, {"$x": "1"}, {"x": ["a", ["b"]]}, {"x": []}, {"x": ""}, {"x": "\\u0000"},
]  # fmt: skip
QUERIES: list[dict[str, Any]] = [
    {"x": {"$gt": 2**60}}, {"x": 10**22}, {"x": {"$gte": "a"}}, {"x": {"$gt": "z"}}, {"x": {"$lt": "a%c"}},
    {"x": {"$contains": "%"}}, {"x": {"$contains": ["b"]}}, {"x": {"$contains": ""}}, {"x": 0}, {"x": "a%b_c'\\"},
    {"x.y.z": 1}, {"x.y.z": 2}, {"x.y": {"$exists": True}}, {"a.b": 1}, {"author.name": {"$in": ["Ada"]}}, {"x": []},
    {"x": {"$not": {"$exists": True}}}, {"$and": []}, {"$or": []}, {"x": {"$in": [1, None, "", []]}}, {"x": "\\u0000"},
]  # fmt: skip


@pytest.fixture(scope="module")
def store(postgres: str) -> Iterator[Any]:
    import psycopg

    with open_engine(f"{postgres}{'&' if '?' in postgres else '?'}schema=test_filters") as store:
        yield store
    with psycopg.connect(postgres) as connection:
        connection.execute("DROP SCHEMA test_filters CASCADE")


def fill(store: Any, many: list[dict[str, Any]]) -> None:
    with store.reading() as view:
        known = view.ids(view.matching(None))
    store.delete(known)
    store.add([Passage("text", id=str(n), metadata=m) for n, m in enumerate(many)], [[1.0]] * len(many))


def found(store: Any, query: Any) -> list[str]:
    with store.reading() as view:
        return sorted(view.ids(view.matching(query)), key=int)


def test_meaning(store: Any) -> None:
    fill(store, EXAMPLES)
    for query in QUERIES:
        expected = [str(n) for n, metadata in enumerate(EXAMPLES) if compile_filter(query)(metadata)]
        assert found(store, query) == expected, query


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(METADATA, min_size=1, max_size=8), queries=st.lists(FILTERS, min_size=1, max_size=8))
def test_any_filter_means_the_same(store: Any, many: list[dict[str, Any]], queries: list[dict[str, Any]]) -> None:
    fill(store, many)
    for query in queries:
        expected = [str(n) for n, metadata in enumerate(many) if compile_filter(query)(metadata)]
        assert found(store, query) == expected, query


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (lambda metadata: True, TypeError, "cannot run a function"),
        ({"x": {"$regex": "a"}}, ValueError, r"\$regex"),
        ({"x": "a\x00"}, ValueError, "NUL"),
        ({"x\x00": 1}, ValueError, "NUL"),
        ({"x": {"$in": ["a\udcff"]}}, ValueError, "the filter on 'x' compares with a text that has a lone surrogate"),
        ({"x\udcff": 1}, ValueError, r"the filter key 'x\\udcff' has a lone surrogate"),
        ({"a.b.c.d.e.f.g.h": 1}, ValueError, "dots"),
    ],
)
def test_what_cannot_be_asked_is_refused(query: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_sql(query)
