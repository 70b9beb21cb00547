"""Maximal marginal relevance against LangChain's and a naive one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.retrieval.diversity import diversify, maximal_marginal_relevance


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 15), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_chooses_as_langchain_does(seed: int, n: int, k: int, lambda_mult: float) -> None:
    theirs = pytest.importorskip("langchain_core.vectorstores.utils").maximal_marginal_relevance
    random = np.random.default_rng(seed)
    query, vectors = random.normal(size=8), random.normal(size=(n, 8))
    chosen = maximal_marginal_relevance(query, vectors, k, lambda_mult)
    assert chosen == theirs(query, list(vectors), lambda_mult=lambda_mult, k=k)
    assert len(chosen) == len(set(chosen)) == min(n, k)


def test_without_relevance_given_the_query_decides_and_with_it_not() -> None:
    vectors = [[1, 0], [0, 1]]
    assert maximal_marginal_relevance([1, 0], vectors, 1) == [0]
    assert maximal_marginal_relevance([1, 0], vectors, 1, relevance=[0.1, 0.9]) == [1]


def test_bad_arguments() -> None:
    assert maximal_marginal_relevance([1, 0], [], 3) == []
    for arguments, words in (
        (([1, 0], [[1, 0]], 0), "k must"),
        (([1, 0], [[1, 0]], 1, 2), "lambda_mult"),
        (([1], [[1, 0]], 1), "fit"),
        (([1, 0], [[1, 0]], 1, 0.5, [1, 2]), "fit"),
    ):
        with pytest.raises(ValueError, match=words):
            maximal_marginal_relevance(*arguments)


def test_hits_that_say_the_same_give_way() -> None:
    with HybridMemory() as memory:
        memory.add(
            [Passage(f"Helium is a light gas number {n}.", id=f"same{n}") for n in range(3)]
            + [Passage("Balloons are filled with helium, which is costly.", id="other")]
        )
        hits = memory.search("helium light gas", k=4)
        assert [hit.passage.id for hit in hits][3] == "other"
        assert "other" in [hit.passage.id for hit in diversify(memory, hits, 2, 0.1)]
        assert diversify(memory, hits, 4, 1.0) == hits
        memory.delete(["same0"])
        assert len(diversify(memory, hits, 4)) == 3
        assert diversify(memory, [], 4) == []
