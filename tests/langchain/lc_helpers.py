"""Documents and fakes of the LangChain tests."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

TEXTS = {
    "Ada Lovelace": "Ada Lovelace wrote the first program, for the Analytical Engine.",
    "Analytical Engine": "The Analytical Engine was designed by Charles Babbage and never finished.",
    "Charles Babbage": "Charles Babbage was a professor at Cambridge. He died in London in 1871.",
    "Banana": "Bananas are yellow fruit that grow in bunches in warm countries.",
    "Sourdough": "Sourdough bread is leavened by wild yeast.",
    "Helium": "Helium is a light gas that was first seen in the spectrum of the sun.",
}


class WordEmbeddings(Embeddings):
    """Adds up one fixed random vector a word."""

    def __init__(self, dimension: int = 32) -> None:
        self.dimension = dimension

    def embed_query(self, text: str) -> list[float]:
        total = np.full(self.dimension, 0.01)
        for word in text.lower().replace(".", "").split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            total += np.random.default_rng(seed).normal(size=self.dimension)
        return total.tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


class AsyncWordEmbeddings(WordEmbeddings):
    """Answers questions on the event loop only, and slowly, as a model behind a network does."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: list[str] = []
        self.waiting = self.most_waiting = 0

    async def aembed_query(self, text: str) -> list[float]:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        await asyncio.sleep(0.05)
        self.waiting -= 1
        self.awaited.append(text)
        return super().embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.01)
        self.awaited += texts
        return super().embed_documents(texts)


class AsyncOnlyEmbeddings(AsyncWordEmbeddings):
    """Has no blocking form at all, as some clients of a network do."""

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.sleep(0)
        return super(AsyncWordEmbeddings, self).embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return [await self.aembed_query(text) for text in texts]


def documents() -> list[Document]:
    return [
        Document(id=f"d{n}", page_content=text, metadata={"title": title, "tenant": "ab"[n % 2], "number": n})
        for n, (title, text) in enumerate(TEXTS.items())
    ]
