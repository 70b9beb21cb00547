"""Checks on what a caller asks, before anything is read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.validation import check_text
from hybridmem_plugins.retrieval.model import ROUTES


def unit_vector(values: Any) -> NDArray[np.float32]:
    """Return an embedder's vector of a question with length 1, or as it is where it is zero.

    Raises:
        ValueError: It is no vector (an awaitable, for example), or has NaN or infinity in it.
    """
    try:
        vector = np.asarray(values, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        msg = f"the embedder gave no vector for the question, but a {type(values).__name__}: {error}"
        raise ValueError(msg) from None
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        msg = "the embedder gave a vector with NaN or infinity for the question"
        raise ValueError(msg)
    return vector / norm if norm else vector


def check_question(question: str, route: str = "auto") -> None:
    """Refuse what cannot be asked.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An empty question, one with half of a surrogate pair, or an unknown route.
    """
    if not isinstance(question, str):
        msg = f"the question must be a string, not {type(question).__name__}"
        raise TypeError(msg)
    if not question.strip():
        msg = "the question is empty"
        raise ValueError(msg)
    check_text(question, "the question")
    if route not in ROUTES:
        msg = f"unknown route {route!r}; use one of {', '.join(map(repr, ROUTES))}"
        raise ValueError(msg)
