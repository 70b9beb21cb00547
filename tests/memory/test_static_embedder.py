"""The bundled embedder reads word by word what its tokenizer would read at once."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins.memory import static_embedder
from hybridmem_plugins.memory.static_embedder import StaticEmbedder

EMBEDDER = StaticEmbedder()
PIECES = ["a", "Ada", " ", "  ", "▁", "<s>", "</s>", "<unk>", "<", "\n", "\t", "é", "日本", "\u3000", "\x00", "'s", "."]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(st.characters(codec="utf-8"), max_size=30)
)


def read_at_once(text: str) -> np.ndarray:
    tokenizer, table = EMBEDDER._load()
    ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)
    vector = np.add.reduce(table[ids], axis=0) if len(ids) else np.zeros(table.shape[1], dtype=np.float32)
    norm = np.linalg.norm(vector[None], axis=1)
    return vector / norm if norm else vector


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=500, deadline=None)
def test_word_by_word_gives_the_same_vectors(texts: list[str]) -> None:
    for vector, text in zip(EMBEDDER.embed_documents(texts), texts, strict=True):
        assert np.array_equal(vector, read_at_once(text)), text


def test_forgotten_words_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_embedder, "_REMEMBERED", 1000)
    embedder = StaticEmbedder()
    for number in range(20):
        text = f"word{number} of many words {number % 3}"
        assert np.array_equal(embedder.embed_query(text), read_at_once(text))
        assert len(embedder._tokens_of) < 20


def test_long_texts_without_spaces_are_read_in_parts() -> None:
    vector = EMBEDDER.embed_query("東" * 20_000)
    assert np.isclose(np.linalg.norm(vector), 1, atol=1e-5)


def test_loading_leaves_the_logging_of_the_program_alone() -> None:
    code = (
        "import logging; from hybridmem_plugins import HybridMemory, Passage; memory = HybridMemory();"
        "memory.add([Passage('text')]); memory.search('text'); print(logging.root.handlers, logging.root.level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] {logging.WARNING}\n"
