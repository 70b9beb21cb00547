"""Fixtures of the LlamaIndex tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from li_helpers import nodes

from hybridmem_plugins.llama_index import HybridRetriever


@pytest.fixture
def retriever() -> Iterator[HybridRetriever]:
    made = HybridRetriever.from_nodes(nodes())
    yield made
    made.close()
