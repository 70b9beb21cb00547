from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory import lexical, postings
from hybridmem_plugins.memory.lexical import LexicalIndex

bm25s = pytest.importorskip("bm25s")


def documents(count: int, seed: int = 0, words: int = 300) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [[f"w{min(x, words)}" for x in random.zipf(1.3, random.integers(1, 60))] for _ in range(count)]


def dense(index: LexicalIndex, tokens: list[str], rows: list[int]) -> np.ndarray:
    scores = dict(zip(*(values.tolist() for values in index.search(tokens, 10**6)), strict=True))
    return np.array([scores.get(row, 0.0) for row in rows])


@pytest.mark.parametrize("batch", [1, 7, 400])
def test_scores_equal_bm25s(batch: int) -> None:
    texts = documents(400)
    index = LexicalIndex()
    for start in range(0, 400, batch):
        index.add(range(start + 1, min(400, start + batch) + 1), texts[start : start + batch])
    reference = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    reference.index(texts, show_progress=False)
    for query in documents(40, seed=9):
        query = query[:8]
        expected = reference.get_scores(query)
        assert np.allclose(dense(index, query, list(range(1, 401))), expected, atol=1e-4)
        assert np.allclose(index.score(query, range(1, 401)), expected, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=9), min_size=1, max_size=6),
            st.integers(1, 6),
            st.just("compact"),
        ),
        max_size=20,
    ),
    st.lists(st.sampled_from("abcdefghz"), min_size=1, max_size=4),
    st.integers(0, 2**9),
)
def test_any_sequence_of_changes_equals_a_fresh_index(changes: list, query: list[str], bits: int) -> None:
    index, model, fresh = LexicalIndex(), {}, 0
    for change in changes:
        if change == "compact":
            index.compact()
        elif isinstance(change, int):
            gone = list(model)[::2][:change]
            index.remove([*gone, 999])
            for row in gone:
                del model[row]
        else:
            rows = list(range(fresh + 1, fresh + 1 + len(change)))
            fresh += len(change)
            index.add(rows, change)
            model.update(zip(rows, change, strict=True))
    again = LexicalIndex()
    again.add(list(model), list(model.values()))
    assert len(index) == len(model)
    for k in (1, 3, 100):
        rows, scores = index.search(query, k)
        expected_rows, expected_scores = again.search(query, k)
        assert rows.tolist() == expected_rows.tolist()
        assert np.allclose(scores, expected_scores, atol=1e-6)
    allowed = np.array([bool(bits >> (row % 9) & 1) for row in range(fresh + 1)])
    alone, inside = LexicalIndex(), [row for row in model if allowed[row]]
    alone.add(inside, [model[row] for row in inside])
    (rows, scores), (expected_rows, expected_scores) = index.search(query, 3, allowed), alone.search(query, 3)
    assert rows.tolist() == expected_rows.tolist()
    assert np.allclose(scores, expected_scores, atol=1e-6)
    assert index.document_frequency(query).tolist() == [sum(t in d for d in model.values()) for t in query]
    phrase = [row for row, text in model.items() if "".join(query) in "".join(text)]
    assert index.rows_with_phrase(query).tolist() == sorted(phrase)
    assert index.rows_with_phrase(query, allowed).tolist() == [row for row in sorted(phrase) if allowed[row]]
    for row, text in model.items():
        assert index.words([row]) == [text]
        assert [index.term(term) for term in index.tokens(row)] == text


def test_early_stopping_and_merging_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "SMALLEST_MERGE", 2000)
    texts = documents(3000, seed=4, words=2000)
    index = LexicalIndex()
    for start in range(0, 3000, 100):
        index.add(range(start + 1, start + 101), texts[start : start + 100])
    index.remove(range(5, 300, 7))
    live = index.rows().tolist()
    for query in documents(60, seed=5, words=2000):
        query = query[:9]
        rows, scores = index.search(query, 10)
        every = index.score(query, live)
        order = np.lexsort((np.array(live), -every))[:10]
        expected = [live[position] for position in order if every[position] > 0]
        assert rows.tolist() == expected
        assert np.allclose(scores, every[order][: len(expected)], atol=1e-6)


def test_the_long_phrase_scan_equals_the_short_one() -> None:
    texts = documents(500, seed=2, words=12)
    index = LexicalIndex()
    index.add(range(1, 501), texts)
    index.remove([3, 4])
    phrases = [["w1", "w1"], ["w2", "w1"], ["w12", "w1", "w2"], ["w1"], ["w1", "zz"], texts[9], texts[9][-1:] * 3]
    together = index.rows_with_phrases(phrases)
    for phrase, found in zip(phrases, together, strict=True):
        wanted = [
            row
            for row, text in enumerate(texts, 1)
            if row not in (3, 4) and any(text[i : i + len(phrase)] == phrase for i in range(len(text)))
        ]
        assert index.rows_with_phrase(phrase).tolist() == wanted
        assert found.tolist() == wanted


def test_phrases_that_begin_alike_are_looked_for_together() -> None:
    texts = [["heading", "number", f"w{i}"] for i in range(20_000)]
    index = LexicalIndex()
    index.add(range(1, 20_001), texts)
    tracemalloc.start()
    found = index.rows_with_phrases(texts[7000:8000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [rows.tolist() for rows in found] == [[row] for row in range(7001, 8001)]
    assert peak < 10e6  # each place of "heading number" for each phrase would be 160 MB


@pytest.mark.parametrize("read", [0, 10**9])
def test_gains_add_up_to_the_score(monkeypatch: pytest.MonkeyPatch, read: int) -> None:
    monkeypatch.setattr(lexical, "_READ_TOKENS", read)
    texts = documents(200, seed=3, words=60)
    index = LexicalIndex()
    index.add(range(1, 201), [[], *texts[1:]])
    index.remove([7])
    query = ["w1", "nowhere", "w2", "w9"]
    rows = [1, 2, 200, 50]
    gains = index.gains(query, rows)
    assert gains.shape == (4, 4)
    assert not gains[0].any()
    assert not gains[:, 1].any()
    assert np.allclose(gains.sum(axis=1), index.score(query, rows), atol=1e-6)


def test_under_a_mask_scores_are_those_of_the_allowed_rows_alone() -> None:
    texts = documents(300, seed=5, words=40)
    index, alone = LexicalIndex(), LexicalIndex()
    index.add(range(1, 301), texts)
    index.remove([4, 8])
    mask = np.zeros(301, dtype=np.bool_)
    mask[1::3] = True
    rows = [row for row in range(1, 301) if mask[row] and row not in (4, 8)]
    alone.add(rows, [texts[row - 1] for row in rows])
    query = ["w1", "w2", "w9", "w25", "nowhere"]
    for _ in range(2):  # the second time from what was kept
        found, scores = index.search(query, 40, mask)
        expected, wanted = alone.search(query, 40)
        assert found.tolist() == expected.tolist()
        assert np.allclose(scores, wanted, rtol=1e-6)
        assert np.allclose(index.gains(query, rows, mask), alone.gains(query, rows), rtol=1e-6)
        assert index.idf(query, mask).tolist() == alone.idf(query).tolist()
    index.add([400], [["w1"] * 9])
    assert index.search(query, 5, mask)[0].tolist() == expected[:5].tolist()


def test_idf_and_terms() -> None:
    index = LexicalIndex()
    index.add([1, 2], [["a", "b"], ["a"]])
    assert index.idf(["a", "b", "new"]).tolist() == pytest.approx(
        np.log1p([0.5 / 2.5, 1.5 / 1.5, 2.5 / 0.5]).tolist(), rel=1e-6
    )
    assert index.term_ids(["a", "new"]).tolist() == [0, -1]
    with pytest.raises(KeyError):
        index.tokens(3)
    with pytest.raises(ValueError, match="k must"):
        index.search(["a"], 0)
    assert index.search([], 3)[0].tolist() == []
    with pytest.raises(ValueError, match="k1"):
        LexicalIndex(b=2)


def test_compaction_leaves_no_word_behind(tmp_path: Path) -> None:
    index = LexicalIndex()
    index.add([1, 2], [["secret", "word"], ["word"]])
    index.remove([1])
    index.compact()
    index.save(tmp_path)
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())
    assert index.term_ids(["secret"]).tolist() == [-1]
    assert index.search(["word"], 2)[0].tolist() == [2]


def test_saving_and_loading_gives_the_same_answers(tmp_path: Path) -> None:
    texts = documents(300)
    index = LexicalIndex()
    index.add(range(1, 301), texts)
    index.remove([7, 8])
    index.save(tmp_path, {"version": 3})
    again = LexicalIndex()
    assert again.load(tmp_path) == {"version": 3}
    for one in (index, again):
        one.add([301], [["w1", "new", "new"]])
        one.remove([9])
    for query in (["w1", "w2"], ["new"], ["w3"]):
        assert np.array_equal(index.search(query, 50), again.search(query, 50))
    assert again.words([1, 301]) == [texts[0], ["w1", "new", "new"]]
    next(tmp_path.glob("*.npz")).write_bytes(b"x")
    with pytest.raises(MemoryFormatError):
        LexicalIndex().load(tmp_path)
