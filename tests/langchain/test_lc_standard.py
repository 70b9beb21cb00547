"""LangChain's own conformance suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from lc_helpers import documents

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.langchain import HnswVectorStore, HybridRetriever


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


class TestHnswVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        store = HnswVectorStore(self.get_embeddings())
        yield store
        store.close()


class TestHnswVectorStoreOnDisk(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        store = HnswVectorStore(self.get_embeddings(), tmp_path / "memory")
        yield store
        store.close()


class TestHnswVectorStoreAsRetriever(TestHybridRetriever):
    @property
    def retriever_constructor(self) -> Any:
        store = HnswVectorStore(memory=self._memory)
        return lambda **settings: store.as_hybrid_retriever(**{k: v for k, v in settings.items() if k != "memory"})
