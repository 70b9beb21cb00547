"""Nodes and fakes of the LlamaIndex tests."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode

TEXTS = {
    "Ada Lovelace": "Ada Lovelace wrote the first program, for the Analytical Engine.",
    "Analytical Engine": "The Analytical Engine was designed by Charles Babbage and never finished.",
    "Charles Babbage": "Charles Babbage was a professor at Cambridge. He died in London in 1871.",
    "Banana": "Bananas are yellow fruit that grow in bunches in warm countries.",
    "Sourdough": "Sourdough bread is leavened by wild yeast.",
    "Helium": "Helium is a light gas that was first seen in the spectrum of the sun.",
}


class WordEmbedding(BaseEmbedding):
    """Adds up one fixed random vector a word; its async methods only call the others."""

    dimension: int = 32

    def _get_text_embedding(self, text: str) -> list[float]:
        total = np.full(self.dimension, 0.01)
        for word in text.lower().replace(".", "").split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            total += np.random.default_rng(seed).normal(size=self.dimension)
        return total.tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class AsyncWordEmbedding(WordEmbedding):
    """Waits on the event loop, as a model behind a network does."""

    awaited: int = 0
    waiting: int = 0
    most_waiting: int = 0

    async def _aget_text_embedding(self, text: str) -> list[float]:
        await asyncio.sleep(0.01)
        self.awaited += 1
        return self._get_text_embedding(text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.05)
        self.waiting -= 1
        self.awaited += 1
        return self._get_query_embedding(query)


def nodes() -> list[TextNode]:
    made = []
    for n, (title, text) in enumerate(TEXTS.items()):
        node = TextNode(
            id_=f"n{n}", text=text, metadata={"title": title, "tenant": "ab"[n % 2], "number": n, "tags": [title, "x"]}
        )
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(
            node_id=f"doc{n // 2}", node_type=ObjectType.DOCUMENT, metadata={"file": "a.md"}, hash="h"
        )
        node.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=f"n{n + 1}")
        node.start_char_idx, node.end_char_idx = 10 * n, 10 * n + 5
        node.excluded_llm_metadata_keys = ["number"]
        made.append(node)
    return made
