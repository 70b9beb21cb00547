"""What a memory knows about its embedder: enough to refuse another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.errors import EmbedderMismatchError

PROBE = "A memory holds what was said, who said it, and what it has to do with everything else: 12 facts, 3 names."
# Cosine. The same model differs by rounding between machines and libraries; another model is nowhere near.
SAME_EMBEDDER = 0.99


class Embedder(Protocol):
    """Anything that turns texts into vectors of one length."""

    def embed_documents(self, texts: list[str]) -> ArrayLike:
        """Return one vector a text, shape `(n, dimension)`."""
        ...

    def embed_query(self, text: str) -> ArrayLike:
        """Return the vector of a question, shape `(dimension,)`."""
        ...


def fingerprint(embedder: Embedder) -> str:
    """Return the JSON text by which an embedder is recognised: name, dimension and the vector of a fixed text."""
    probe = embed(embedder, [PROBE], 1)[0]
    values = [round(float(value), 6) for value in probe]
    return json.dumps({"name": embedder_name(embedder), "dimension": len(values), "probe": values})


def embedder_name(embedder: Any) -> str:
    """Return the embedder's `name`, or what its class is called."""
    name = getattr(embedder, "name", None)
    return name if isinstance(name, str) and name else f"{type(embedder).__module__}.{type(embedder).__qualname__}"


def check_embedder(stored: str, current: str) -> None:
    """Compare two fingerprints.

    Two embedders are the same when they give the same vector, whatever they are called: one model may come through
    LangChain today and through LlamaIndex tomorrow.

    Raises:
        EmbedderMismatchError: They differ.
    """
    old, new = json.loads(stored), json.loads(current)
    if old["dimension"] == new["dimension"] and _cosine(old["probe"], new["probe"]) >= SAME_EMBEDDER:
        return
    msg = (
        f"this memory was made with the embedder {old['name']!r} ({old['dimension']} dimensions), "
        f"not with {new['name']!r} ({new['dimension']} dimensions). Open it with the first one, "
        "or add its passages to a new memory: hybridmem export, then hybridmem import"
    )
    raise EmbedderMismatchError(msg)


def check_vectors(stored: int | None, known: str | None, dimension: int, current: str | None) -> None:
    """Compare new vectors with those of a memory.

    Args:
        stored: Dimension of its vectors; None where there are none.
        known: Fingerprint of their embedder; None where that is not known.
        dimension: Dimension of the new ones.
        current: Fingerprint of their embedder; None where they were given.

    Raises:
        EmbedderMismatchError: They differ.
    """
    if stored is not None and stored != dimension:
        msg = f"this memory holds vectors of {stored} dimensions, not {dimension}"
        raise EmbedderMismatchError(msg)
    if known is not None and current is not None and known != current:
        check_embedder(known, current)
    if current is not None and (wanted := json.loads(current).get("dimension")) not in (None, dimension):
        msg = (
            f"vectors of {dimension} dimensions were given, and the embedder makes {wanted}: no question would fit them"
        )
        raise EmbedderMismatchError(msg)


def embed(embedder: Embedder, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
    """Embed texts in batches.

    Returns:
        Shape `(n, dimension)`.

    Raises:
        ValueError: The embedder gave a wrong number of vectors, or vectors of different lengths.
    """
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        try:
            vectors = np.asarray(embedder.embed_documents(batch), dtype=np.float32)
        except (TypeError, ValueError) as error:
            msg = f"the embedder {embedder_name(embedder)!r} failed or gave vectors of different lengths: {error}"
            raise ValueError(msg) from error
        if vectors.ndim != 2 or len(vectors) != len(batch):
            msg = f"the embedder {embedder_name(embedder)!r} gave shape {vectors.shape} for {len(batch)} texts"
            raise ValueError(msg)
        parts.append(vectors)
    if len({part.shape[1] for part in parts}) > 1:
        msg = f"the embedder {embedder_name(embedder)!r} gave vectors of different lengths"
        raise ValueError(msg)
    return np.concatenate(parts)


def _cosine(first: list[float], second: list[float]) -> float:
    left, right = np.array(first), np.array(second)
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale else 0.0
