"""Workers with faults, importable by name from other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from hybridmem_plugins.memory.static_embedder import StaticEmbedder


class Fragile(StaticEmbedder):
    """Kills its process at the first batch of all, once: the file of DYING says that it has done so."""

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        file = Path(os.environ["DYING"])
        if not file.exists():
            file.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_documents(texts)


class Doomed(StaticEmbedder):
    """Kills its process at every batch."""

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_documents(texts)


class Foreign:
    """Another embedding of the same length."""

    def embed_documents(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(len(texts), 256)).astype(np.float32)
