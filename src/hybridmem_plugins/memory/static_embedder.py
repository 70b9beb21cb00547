"""The bundled embedding: static word-piece vectors, averaged; no model to run and nothing to download."""

from __future__ import annotations

import logging
import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Characters beyond which a text is read part by part: the time that the tokenizer takes for one grows with its square.
_LONGEST_PART = 8000
# The tokenizer has no token that goes on over a space, so that a text's tokens are those of its words, each with the
# spaces before it, and most words have been seen before.
_SPACED_WORD = re.compile(" +[^ ]+")
_SPACE = "▁"  # as the tokenizer writes it
_CONTROL = re.compile("<(?:unk|/?s)>")
# Bytes, roughly, up to which the tokens of words are remembered, and what one takes beside its letters.
_REMEMBERED, _BESIDE = 20_000_000, 150


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
        self._tokens_of: dict[str, bytes] = {}  # of words, as int32
        self._remembered = 0

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, shape `(n, 256)`."""
        tokenizer, table = self._load()
        parts = [[_pieces(part) for part in _parts(text)] for text in texts]
        tokens_of = self._tokenised(tokenizer, set().union(*[pieces for each in parts for pieces in each]))
        out = np.zeros((len(parts), table.shape[1]), dtype=np.float32)
        for index, each in enumerate(parts):
            for pieces in each:
                # One at a time: its vectors stay in the processor's cache, and its sum does not depend on the others.
                tokens = np.frombuffer(b"".join(map(tokens_of.__getitem__, pieces)), dtype=np.int32)
                out[index] += np.add.reduce(table.take(tokens, axis=0), axis=0)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(out, norms, out=out, where=norms > 0)
        return unit

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Return the unit vector of a question, shape `(256,)`."""
        vector: NDArray[np.float32] = self.embed_documents([text])[0]
        return vector

    def _tokenised(self, tokenizer: Any, pieces: set[str]) -> dict[str, bytes]:
        """Return the tokens of at least these pieces of text."""
        if self._remembered > _REMEMBERED:
            self._tokens_of, self._remembered = {}, 0  # other threads go on with the old ones
        known = self._tokens_of
        new = list(pieces.difference(known))
        encodings = tokenizer.encode_batch(new, add_special_tokens=False)
        for piece, encoding in zip(new, encodings, strict=True):
            known[piece] = array("i", encoding.ids).tobytes()
            self._remembered += _BESIDE + 5 * len(piece)
        return known

    def _load(self) -> tuple[Any, NDArray[np.float32]]:
        with self._lock:
            if self._model is None:
                with _logging_left_alone():
                    import wordllama

                # The wheel carries weights and tokenizer; never look elsewhere, let alone on the network.
                model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
                tokenizer = model.tokenizer
                tokenizer.no_padding()
                tokenizer.no_truncation()
                self._model = tokenizer, np.ascontiguousarray(model.embedding, dtype=np.float32)
            return self._model


@contextmanager
def _logging_left_alone() -> Iterator[None]:
    """Keep an import from setting up logging for the whole program, as wordllama's does."""
    handler = logging.NullHandler()  # `basicConfig` does nothing where there is one
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _pieces(part: str) -> list[str]:
    """Cut a text into what has the same tokens alone: the tokenizer puts the space before it that was cut away."""
    if _SPACE in part or part[-1:] == " " or ("<" in part and _CONTROL.search(part)):
        return [part]
    if part[:1] == " " or "  " in part:
        return [word[1:] for word in _SPACED_WORD.findall(f" {part}")]
    return part.split(" ")


def _parts(text: str) -> list[str]:
    """Cut a long text, at spaces where there are any."""
    parts = []
    while len(text) > _LONGEST_PART:
        space = text.rfind(" ", _LONGEST_PART // 2, _LONGEST_PART)
        end = space if space > 0 else _LONGEST_PART
        parts.append(text[:end])
        text = text[end + (space > 0) :]
    return [*parts, text]
