"""Fakes that the tests of this room share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridmem_plugins.extraction.model import Extraction, Mention
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.rows import Rows, as_rows
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.passage import Passage


class FakeEmbedder:
    """Adds up one fixed random vector a word, so that passages with common words are similar."""

    def __init__(self, dimension: int = 16, name: str = "fake", seed: int = 0) -> None:
        self.name = name
        self.dimension = dimension
        self.seed = seed
        self.calls = 0

    def _word(self, word: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed} {word}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(size=self.dimension)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += len(texts)
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return np.sum([self._word(word) for word in [*words(text), "<text>"]], axis=0).tolist()


class FakeExtractor:
    """Every capitalised word is an entity."""

    def extract(self, passages: Sequence[Passage]) -> list[Extraction]:
        return [
            Extraction(
                sentences=((0, len(p.text)),),
                defines=(p.title.lower(),) if p.title else (),
                mentions=tuple(Mention(w.lower(), "name", 0) for w in dict.fromkeys(p.text.split()) if w.istitle()),
            )
            for p in passages
        ]


class FakeGraph:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.find_phrases: Any = None
        self.known: dict[int, tuple[Passage, Extraction, list[str]]] = {}

    def add(
        self,
        rows: Sequence[int],
        passages: Sequence[Passage],
        extractions: Sequence[Extraction],
        tokens: Sequence[list[str]],
    ) -> None:
        for row, *rest in zip(rows, passages, extractions, tokens, strict=True):
            assert row not in self.known
            self.known[row] = tuple(rest)

    def remove(self, rows: Sequence[int]) -> None:
        for row in rows:
            del self.known[row]

    def bulk(self) -> AbstractContextManager[None]:
        return nullcontext()

    def clear(self) -> None:
        self.known.clear()

    def rows(self) -> Rows:
        return as_rows(list(self.known))

    def save(self, folder: Path, stamp: Any = None) -> None:
        """Write nothing but the stamp: what the store told it is to come from the journal again."""
        save_cache(folder, "graph", {"stamp": stamp}, {})

    def load(self, folder: Path) -> Any:
        return load_cache(folder, "graph")[0]["stamp"]


@pytest.fixture
def open_store() -> Any:
    """Open stores that are closed after the test."""
    opened: list[MemoryStore] = []

    def open_one(path: Path | str | None = None, **options: Any) -> MemoryStore:
        options.setdefault("embedder", FakeEmbedder())
        options.setdefault("extractor", FakeExtractor())
        options.setdefault("graph", FakeGraph())
        store = MemoryStore(path, **options)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


OpenStore = Callable[..., MemoryStore]
