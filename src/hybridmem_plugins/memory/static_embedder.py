"""The bundled embedding: static word-piece vectors, averaged; no model to run and nothing to download."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Characters beyond which a text is read part by part: the time that the tokenizer takes for one grows with its square.
_LONGEST_PART = 8000


class StaticEmbedder:
    """WordLlama's 256-dimension vectors, which come with its wheel (16 MB).

    Loaded at the first call. Texts of any length are read whole; an empty one gives a vector of zeros.

    >>> StaticEmbedder().embed_query("What is DRAM?").shape
    (256,)
    """

    name = "wordllama-l2-supercat-256"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: tuple[Any, NDArray[np.float32]] | None = None

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, shape `(n, 256)`."""
        tokenizer, table = self._load()
        parts = [_parts(text) for text in texts]
        encodings = tokenizer.encode_batch([part for each in parts for part in each], add_special_tokens=False)
        owners = [index for index, each in enumerate(parts) for _ in each]
        out = np.zeros((len(parts), table.shape[1]), dtype=np.float32)
        for index, encoding in zip(owners, encodings, strict=True):
            # One text at a time: its vectors stay in the processor's cache, and its sum does not depend on the others.
            rows = table.take(np.array(encoding.ids, dtype=np.intp), axis=0)
            out[index] += np.add.reduce(rows, axis=0)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(out, norms, out=out, where=norms > 0)
        return unit

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Return the unit vector of a question, shape `(256,)`."""
        vector: NDArray[np.float32] = self.embed_documents([text])[0]
        return vector

    def _load(self) -> tuple[Any, NDArray[np.float32]]:
        with self._lock:
            if self._model is None:
                import wordllama

                # The wheel carries weights and tokenizer; never look elsewhere, let alone on the network.
                model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
                tokenizer = model.tokenizer
                tokenizer.no_padding()
                tokenizer.no_truncation()
                self._model = tokenizer, np.ascontiguousarray(model.embedding, dtype=np.float32)
            return self._model


def _parts(text: str) -> list[str]:
    """Cut a long text, at spaces where there are any."""
    parts = []
    while len(text) > _LONGEST_PART:
        space = text.rfind(" ", _LONGEST_PART // 2, _LONGEST_PART)
        end = space if space > 0 else _LONGEST_PART
        parts.append(text[:end])
        text = text[end + (space > 0) :]
    return [*parts, text]
