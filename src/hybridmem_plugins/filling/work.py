"""What a worker does with a batch of passages, and the plain bytes in which batches travel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.memory.caches import full_text
from hybridmem_plugins.memory.embedding import Embedder, embed
from hybridmem_plugins.memory.static_embedder import StaticEmbedder
from hybridmem_plugins.passage import Passage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """A batch that was read.

    Attributes:
        passages: The batch.
        vectors: Shape `(passages, dimension)`.
        extractions: What was read in each.
    """

    passages: list[Passage]
    vectors: NDArray[np.float32]
    extractions: list[Extraction]


@dataclass
class Work:
    """Reads and embeds batches in a process of its own.

    Args:
        embedder: Makes the embedder, once in each worker; it has to be the memory's.
        extractor: Makes the extractor, once in each worker; it has to be the memory's.

    Both must be importable by name (a class or a function of a module), since workers are other processes.
    """

    embedder: Callable[[], Embedder] = StaticEmbedder
    extractor: Callable[[], Extractor] = BuiltinExtractor
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, batch: bytes) -> bytes:
        """Read a packed batch and return it packed, with what was read."""
        passages = _unpack_passages(json.loads(batch))
        if not self._made:
            self._made = {"embedder": self.embedder(), "extractor": self.extractor()}
        texts = [full_text(passage.title, passage.text) for passage in passages]
        vectors = embed(self._made["embedder"], texts, len(texts)).astype("<f4")
        extractions = self._made["extractor"].extract(passages)
        head = json.dumps([vectors.shape[1], [extraction.to_json() for extraction in extractions]]).encode()
        return b"%d\n" % len(head) + head + vectors.tobytes()

    def __getstate__(self) -> dict[str, Any]:
        return {"embedder": self.embedder, "extractor": self.extractor, "_made": {}}


def pack(passages: Sequence[Passage]) -> bytes:
    """Return a batch as JSON.

    >>> _unpack_passages(json.loads(pack([Passage("Text.", title="Title", id="a")])))[0].title
    'Title'
    """
    return json.dumps([[p.id, p.title, p.text, p.metadata] for p in passages]).encode()


def unpack(passages: list[Passage], packed: bytes) -> Done:
    """Read what a worker returned for a batch.

    Raises:
        ValueError: It does not fit the batch.
    """
    length, _, rest = packed.partition(b"\n")
    dimension, texts = json.loads(rest[: int(length)])
    vectors = np.frombuffer(rest, dtype="<f4", offset=int(length)).reshape(-1, dimension)
    if not len(passages) == len(texts) == len(vectors):
        msg = f"a worker returned {len(texts)} extractions and {len(vectors)} vectors for {len(passages)} passages"
        raise ValueError(msg)
    return Done(passages, vectors, [Extraction.from_json(text) for text in texts])


def batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of at most this many."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _unpack_passages(lines: list[Any]) -> list[Passage]:
    return [Passage(text, title=title, id=identity, metadata=metadata) for identity, title, text, metadata in lines]
