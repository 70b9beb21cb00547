"""Corpora that are each hard in one way: the hybrid search is ahead of the fusion of words and vectors."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.extraction.builtin import BuiltinExtractor

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def challenges():
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("challenges")
    finally:
        sys.path.remove(str(BENCHMARKS))


def recall_at_5(data, memory: HybridMemory, route: str) -> float:
    found = [[hit.passage.id.split("#")[0] for hit in memory.search(q.text, 5, route=route)] for q in data.queries]
    return float(np.mean([len(set(f) & q.gold) / len(q.gold) for f, q in zip(found, data.queries, strict=True)]))


@pytest.mark.parametrize("name", ["untitled", "shared_titles", "namesakes", "hubs", "markdown_files", "code", "notes"])
def test_the_walk_finds_what_words_and_vectors_do_not(challenges, name: str) -> None:
    data = getattr(challenges, name)()
    with HybridMemory() as memory:
        memory.add(data.passages)
        assert recall_at_5(data, memory, "auto") >= recall_at_5(data, memory, "semantic") + 0.15


@pytest.mark.parametrize("name", ["German", "French", "Russian", "Chinese"])
def test_the_walk_reads_other_languages(challenges, name: str) -> None:
    data = challenges.language(name)
    with HybridMemory() as memory:
        memory.add(data.passages)
        assert recall_at_5(data, memory, "auto") == 1.0
        assert recall_at_5(data, memory, "vector") < 0.7


def test_comparisons_and_single_hops_lose_nothing(challenges) -> None:
    for data in challenges.articles():
        if data.name in {"one hop", "comparisons"}:
            with HybridMemory() as memory:
                memory.add(data.passages)
                assert recall_at_5(data, memory, "auto") == 1.0


def test_a_file_goes_by_its_name_and_its_title() -> None:
    where = {"source": "teams/team-abeling.md", "document": "The Abeling team"}
    assert BuiltinExtractor().extract([Passage("Every Monday.", title="Meetings", metadata=where)])[0].defines == (
        "meetings", "the abeling team", "abeling team", "team abeling",
    )  # fmt: skip


@pytest.mark.parametrize("source", [7, "https://example.org/", "somewhere", None, "x" * 500 + ".md"])
def test_other_sources_are_no_names(source: object) -> None:
    assert BuiltinExtractor().extract([Passage("It is.", title="T", metadata={"source": source})])[0].defines == ("t",)


def test_an_untitled_text_is_about_a_name_that_opens_it() -> None:
    about = {
        "The Elder Boso ruled.": ("elder boso",),
        "met Ada Abeling again": (),
        "[[Ada Abeling]]: early": ("ada abeling",),
    }
    found = BuiltinExtractor().extract([Passage(text) for text in about])
    assert [set(names) <= set(each.defines) for each, names in zip(found, about.values(), strict=True)] == [True] * 3
    assert not found[1].defines
