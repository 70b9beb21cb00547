"""What a memory counts on in an embedder."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.memory.embedding import Embedder, fingerprint

_TEXTS = [
    "DRAM loses its charge.",
    "Ada Lovelace wrote notes on the engine.",
    "東京 ist weit, 42 km! 🧠",
    "word " * 3000,
]


class EmbedderSuite:
    """Tests of an embedder; override `make`."""

    def make(self) -> Embedder:
        """Return the embedder under test."""
        raise NotImplementedError

    def test_one_finite_vector_a_text(self) -> None:
        """Vectors are numbers, of one length, and not zero."""
        vectors = self._embed(self.make(), _TEXTS)
        assert vectors.shape[0] == len(_TEXTS)
        assert np.isfinite(vectors).all()
        assert (np.linalg.norm(vectors, axis=1) > 0).all()

    def test_questions_have_the_length_of_documents(self) -> None:
        """A question's vector can be compared with a document's."""
        embedder = self.make()
        question = np.asarray(embedder.embed_query(_TEXTS[0]), dtype=np.float32)
        assert question.shape == (self._embed(embedder, _TEXTS).shape[1],)
        assert np.isfinite(question).all()

    def test_a_text_has_one_vector_whatever_stands_beside_it(self) -> None:
        """Batching changes nothing but rounding, and order is kept."""
        embedder = self.make()
        together, alone = self._embed(embedder, _TEXTS), [self._embed(embedder, [text])[0] for text in _TEXTS]
        assert np.allclose(together, alone, rtol=1e-3, atol=1e-4 * float(np.abs(together).max()))

    def test_the_same_again_gives_the_same_fingerprint(self) -> None:
        """A memory recognises the embedder that made it."""
        assert fingerprint(self.make()) == fingerprint(self.make())

    def test_different_texts_differ(self) -> None:
        """Vectors tell texts apart."""
        first, second = self._embed(self.make(), _TEXTS[:2])
        assert not np.allclose(first, second)

    def test_a_memory_finds_a_text_by_itself(self) -> None:
        """The whole way through a memory works."""
        with HybridMemory(self.make()) as memory:
            memory.add([Passage(text, id=str(number)) for number, text in enumerate(_TEXTS)])
            assert memory.search(_TEXTS[1], k=1)[0].passage.id == "1"

    @staticmethod
    def _embed(embedder: Embedder, texts: list[str]) -> Any:
        return np.asarray(embedder.embed_documents(list(texts)), dtype=np.float32)
