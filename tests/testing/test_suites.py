"""The project's own parts pass the suites that it gives others, and broken ones do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.llm_extractor import LLMExtractor
from hybridmem_plugins.extraction.model import Extraction, Mention
from hybridmem_plugins.extraction.resolving import NameResolver, ResolvingExtractor
from hybridmem_plugins.memory.graph import KnowledgeGraph
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.memory.vectors import VectorIndex
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.testing import EmbedderSuite, ExtractorSuite, GraphStoreSuite, VectorIndexSuite


class TestStaticEmbedder(EmbedderSuite):
    def make(self) -> Any:
        return StaticEmbedder()


class TestBuiltinExtractor(ExtractorSuite):
    def make(self) -> Any:
        return BuiltinExtractor()


class TestLLMExtractor(ExtractorSuite):
    def make(self) -> Any:
        return LLMExtractor(lambda prompt: '[["Ada Lovelace", "met", "Charles Babbage"]]' if "notes" in prompt else "?")


class TestResolvingExtractor(ExtractorSuite):
    def make(self) -> Any:
        return ResolvingExtractor(BuiltinExtractor(), NameResolver({"Babbage": "Charles Babbage", "notes": "Memo"}))


class TestExactIndex(VectorIndexSuite):
    def make(self, dimension: int) -> Any:
        return VectorIndex(dimension, engine="exact")


class TestHnswIndex(VectorIndexSuite):
    recall = 0.8

    def make(self, dimension: int) -> Any:
        pytest.importorskip("hnswlib")
        return VectorIndex(dimension, engine="hnswlib")


class TestKnowledgeGraph(GraphStoreSuite):
    def make(self) -> Any:
        return KnowledgeGraph()


def failing(suite: Any) -> set[str]:
    """Run a suite and return the names of the tests that fail."""
    failed = set()
    for name in dir(suite):
        if name.startswith("test_"):
            try:
                getattr(suite, name)()
            except (AssertionError, ValueError):
                failed.add(name)
    return failed


def test_a_broken_embedder_fails() -> None:
    class Broken(EmbedderSuite):
        def make(self) -> Any:
            class Zero:
                def embed_documents(self, texts: list[str]) -> Any:
                    return np.zeros((len(texts), 4))

                def embed_query(self, text: str) -> Any:
                    return np.zeros(3)

            return Zero()

    assert len(failing(Broken())) >= 3


def test_a_broken_extractor_fails() -> None:
    class Broken(ExtractorSuite):
        def make(self) -> Any:
            class Raw:
                def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
                    return [Extraction(mentions=(Mention("Not Normalised!", "entity", 7),)) for _ in passages]

            return Raw()

    assert {"test_names_are_normalised_and_mentioned_once", "test_sentences_lie_in_the_text_in_order"} <= failing(
        Broken()
    )


def test_a_leaking_graph_fails() -> None:
    class Broken(GraphStoreSuite):
        def make(self) -> Any:
            class Leaking(KnowledgeGraph):
                def neighbourhood(self, rows: Any, kinds: Any = ("forward",), allowed: Any = None) -> Any:
                    return super().neighbourhood(rows, kinds, None)

            return Leaking()

    assert failing(Broken()) == {"test_a_mask_hides"}


def test_importing_the_suites_does_not_import_pytest() -> None:
    code = "import sys, hybridmem_plugins.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
