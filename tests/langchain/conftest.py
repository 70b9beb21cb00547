"""Fixtures of the LangChain tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lc_helpers import documents

from hybridmem_plugins.langchain import HybridRetriever


@pytest.fixture
def retriever() -> Iterator[HybridRetriever]:
    made = HybridRetriever.from_documents(documents())
    yield made
    made.close()
