"""LangChain's own conformance suites."""

from __future__ import annotations

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests
from lc_helpers import documents

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.langchain import HybridRetriever


class TestHybridRetriever(RetrieversIntegrationTests):
    _memory: HybridMemory

    @pytest.fixture(autouse=True)
    def _filled(self) -> None:
        type(self)._memory = HybridRetriever.from_documents(documents()).memory

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return HybridRetriever

    @property
    def retriever_constructor_params(self) -> dict:
        return {"memory": self._memory}

    @property
    def retriever_query_example(self) -> str:
        return "Who designed the machine that Ada Lovelace wrote for?"
