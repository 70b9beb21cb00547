"""Conformance suites for your own embedder, extractor, vector index, graph store or whole memory.

Subclass a suite in a test file, say how to make the thing, and run pytest; nothing here imports pytest.

    from hybridmem_plugins.testing import EmbedderSuite

    class TestMyEmbedder(EmbedderSuite):
        def make(self):
            return MyEmbedder()
"""

from hybridmem_plugins.testing.embedder import EmbedderSuite
from hybridmem_plugins.testing.extractor import ExtractorSuite
from hybridmem_plugins.testing.graph_store import GraphStoreSuite
from hybridmem_plugins.testing.memory import MemorySuite
from hybridmem_plugins.testing.vector_index import VectorIndexSuite

__all__ = ["EmbedderSuite", "ExtractorSuite", "GraphStoreSuite", "MemorySuite", "VectorIndexSuite"]
