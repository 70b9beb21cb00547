from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory import hnsw
from hybridmem_plugins.memory.vectors import VectorIndex


def clustered(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 8)) @ random.normal(size=(8, dimension)) + 0.3 * random.normal(
        size=(count, dimension)
    )


def nearest(vectors: dict[int, np.ndarray], query: np.ndarray, k: int) -> list[int]:
    def cosine(row: int) -> float:
        return float(vectors[row] @ query / np.linalg.norm(vectors[row]) / np.linalg.norm(query))

    return sorted(vectors, key=lambda row: (-cosine(row), row))[:k]


def test_exact_search_orders_by_similarity_then_row() -> None:
    index = VectorIndex(2)
    index.add([5, 3, 9], [[1, 0], [1, 0], [0, 1]])
    rows, similarities = index.search([3, 0], k=10)
    assert rows.tolist() == [3, 5, 9]
    assert rows.dtype == np.int64
    assert similarities.dtype == np.float32
    assert similarities.tolist() == [1.0, 1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=40), st.integers(1, 15), st.integers(0, 2**15 - 1)
)
def test_any_sequence_of_changes_equals_a_naive_model(changes: list[tuple[bool, int]], k: int, bits: int) -> None:
    random = np.random.default_rng(1)
    pool = random.integers(-2, 3, size=(400, 3)).astype(float) + 0.5  # many equal vectors
    index, model, fresh = VectorIndex(3), {}, 0
    for adding, count in changes:
        if adding:
            rows = list(range(fresh + 1, fresh + 1 + count))
            index.add(rows, pool[rows])
            model.update({row: pool[row] for row in rows})
            fresh += count
        else:
            gone = list(model)[::2][:count]
            index.remove(gone)
            for row in gone:
                del model[row]
    allowed = np.array([bool(bits >> (row % 15) & 1) for row in range(fresh + 1)])
    query = pool[399]
    assert len(index) == len(model)
    assert index.search(query, k)[0].tolist() == nearest(model, query.astype("f4"), k) or _equal_scores(
        index, model, query, k
    )
    kept = {row: vector for row, vector in model.items() if allowed[row]}
    found = index.search(query, k, allowed)[0].tolist()
    assert len(found) == min(k, len(kept))
    assert set(found) <= set(kept)


def _equal_scores(index: VectorIndex, model: dict[int, np.ndarray], query: np.ndarray, k: int) -> bool:
    """Vectors of equal direction and different length differ in the last digit; then only the scores must agree."""
    rows, similarities = index.search(query, k)
    expected = index.similarity(query, nearest(model, query, k))
    return len(set(rows.tolist())) == len(expected) and bool(np.allclose(similarities, expected, atol=1e-6))


def test_hnswlib_finds_what_a_scan_finds() -> None:
    pytest.importorskip("hnswlib")
    data, queries = clustered(6000), clustered(6050)[6000:]
    exact, approximate = VectorIndex(32, engine="exact"), VectorIndex(32)
    for index in (exact, approximate):
        for start in range(0, 6000, 1500):
            index.add(range(start + 1, start + 1501), data[start : start + 1500])
    assert (exact.engine, approximate.engine) == ("exact", "hnswlib")
    common = [
        len(set(exact.search(q, 10)[0].tolist()) & set(approximate.search(q, 10)[0].tolist())) / 10 for q in queries
    ]
    assert np.mean(common) >= 0.98
    rows, similarities = approximate.search(queries[0], 10)
    assert np.array_equal(similarities, exact.similarity(queries[0], rows))


def test_filters_wide_and_narrow_return_k_allowed_rows() -> None:
    pytest.importorskip("hnswlib")
    data = clustered(9000)
    exact, approximate = VectorIndex(32, engine="exact"), VectorIndex(32)
    for index in (exact, approximate):
        index.add(range(1, 9001), data)
    random = np.random.default_rng(3)
    near = np.zeros(9001, dtype=bool)
    near[exact.search(data[0], 4500)[0]] = True
    for allowed in (random.random(9001) < 0.9, random.random(9001) < 0.6, random.random(9001) < 0.01, ~near):
        for query in (data[0], data[77]):
            rows, _ = approximate.search(query, 20, allowed)
            expected, _ = exact.search(query, 20, allowed)
            assert allowed[rows].all()
            assert len(rows) == len(expected) == 20
            assert len(set(rows.tolist()) & set(expected.tolist())) >= 18


def test_removed_rows_never_come_back_and_k_is_always_met() -> None:
    pytest.importorskip("hnswlib")
    data = clustered(8000)
    index = VectorIndex(32)
    index.add(range(1, 8001), data)
    index.remove(range(1, 8001, 2))
    for start in range(8001, 9001, 100):
        index.add(range(start, start + 100), data[:100])
        index.remove(range(start - 8000 + 1, start - 7900 + 1))
    live = set(index.rows().tolist())
    for query in data[:40]:
        rows, _ = index.search(query, 300)
        assert len(set(rows.tolist())) == 300
        assert set(rows.tolist()) <= live
    assert len(index.search(data[0], 10**6)[0]) == len(live)


def test_equal_vectors_do_not_break_hnswlib(tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    index = VectorIndex(8, engine="hnswlib")
    index.add(range(1, 3001), np.ones((3000, 8)))
    index.add([3001], [[1, 0, 0, 0, 0, 0, 0, 0]])
    rows, similarities = index.search(np.ones(8), 500)
    assert len(set(rows.tolist())) == 500
    assert similarities[0] == pytest.approx(1.0)
    assert index.search(np.eye(8)[0], 1)[0].tolist() == [3001]
    assert len(index.search(np.ones(8), 3001)[0]) == 3001
    index.remove([1, 3001])  # the first of the equal ones, by which hnswlib knows them
    index.save(tmp_path)
    again = VectorIndex(8, engine="hnswlib")
    again.load(tmp_path)
    for one in (index, again):
        assert one.search(np.ones(8), 2)[0].tolist() == [2, 3]
        one.remove(range(2, 3000))
        one.add([3002, 3003], [np.ones(8), np.eye(8)[1]])
        assert one.search(np.ones(8), 9)[0].tolist() == [3000, 3002, 3003]
        one.remove([3000, 3002])
        assert one.search(np.ones(8), 9)[0].tolist() == [3003]
        one.add([3004], [np.ones(8)])
        assert one.search(np.ones(8), 9)[0].tolist() == [3004, 3003]
        assert one.engine == "hnswlib"


def test_compaction_forgets_tombstones_and_keeps_answers(tmp_path: Path) -> None:
    pytest.importorskip("hnswlib")
    data = clustered(7000)
    index = VectorIndex(32)
    index.add(range(1, 7001), data)
    index.remove(range(1, 1001))
    before = index.search(data[2000], 10)[0].tolist()
    index.compact()
    index.save(tmp_path)
    assert index._graph is not None
    assert index._graph.tombstones == 0
    assert index.search(data[2000], 10)[0].tolist() == before


def test_saving_and_loading_gives_the_same_answers(tmp_path: Path) -> None:
    for count in (100, 6000):
        data = clustered(count)
        index = VectorIndex(32)
        index.add(range(1, count + 1), data)
        index.remove([2, 3, 50])
        index.save(tmp_path, {"version": 7})
        again = VectorIndex(32)
        assert again.load(tmp_path) == {"version": 7}
        assert len(again) == count - 3
        for query in data[:10]:
            for one, other in zip(index.search(query, 12), again.search(query, 12), strict=True):
                assert np.array_equal(one, other)
        again.remove([60])
        again.add([count + 1], [data[0]])
        assert again.search(data[0], 2)[0].tolist() == [1, count + 1]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "flip", "delete", "json", "format", "dimension"])
def test_a_damaged_file_is_refused(tmp_path: Path, harm: str) -> None:
    pytest.importorskip("hnswlib")
    index = VectorIndex(8, engine="hnswlib")
    index.add(range(1, 101), np.random.default_rng(0).normal(size=(100, 8)))
    index.save(tmp_path)
    sidecar, binary = tmp_path / "vectors.json", next(tmp_path.glob("*.bin"))
    content = bytearray(binary.read_bytes())
    if harm == "cut":
        binary.write_bytes(content[:-5])
    elif harm == "flip":
        content[500] ^= 1
        binary.write_bytes(content)
    elif harm == "delete":
        binary.unlink()
    elif harm == "json":
        sidecar.write_text(sidecar.read_text()[:-20])
    elif harm == "format":
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "format": 99}))
    other = VectorIndex(9 if harm == "dimension" else 8, engine="hnswlib")
    with pytest.raises(MemoryFormatError):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[0.0, 0.0], [1, 1]], "vector 0 is zero"),
        ([[1, 1], [float("nan"), 1]], "vector 1 has NaN"),
        ([[1, 1], [float("inf"), 1]], "vector 1 has NaN or infinite"),
        ([[1, 1, 1], [1, 1, 1]], "shape"),
        ([[1, 1]], "shape"),
        ([[1, 1], [1]], "equal length"),
        ([["a", "b"], ["c", "d"]], "numbers"),
    ],
)
def test_bad_vectors_are_refused_and_nothing_is_stored(vectors: list[list[float]], message: str) -> None:
    index = VectorIndex(2)
    with pytest.raises(ValueError, match=message):
        index.add([1, 2], vectors)
    assert len(index) == 0


def test_bad_questions_are_refused() -> None:
    index = VectorIndex(2)
    assert index.search([1, 1], 3)[0].tolist() == []
    index.add([1], [[1, 1]])
    with pytest.raises(ValueError, match="k must"):
        index.search([1, 1], 0)
    with pytest.raises(ValueError, match="length 2"):
        index.search([1, 1, 1], 1)
    with pytest.raises(ValueError, match="NaN"):
        index.search([1, float("nan")], 1)
    with pytest.raises(ValueError, match="row"):
        index.add([1], [[1, 1]])
    with pytest.raises(KeyError):
        index.vectors([2])
    assert index.search([0, 0], 1)[0].tolist() == [1]
    assert index.vectors([1])[0] @ index.vectors([1])[0] == pytest.approx(1)


def test_huge_and_tiny_numbers_are_normalised() -> None:
    index = VectorIndex(2)
    index.add([1, 2], [[3e38, 3e38], [1e-38, 0]])
    assert index.search([3e38, 3e38], 2)[1].tolist() == pytest.approx([1.0, 2**-0.5])


def test_without_hnswlib_one_warning_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.setattr(hnsw, "_warned", False)
    data = clustered(5000, 16)
    index = VectorIndex(16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who has few vectors misses nothing
        index.add(range(1, 4097), data[:4096])
        VectorIndex(16, engine="exact").add(range(1, 5001), data)
    with pytest.warns(RuntimeWarning, match=r"hybridmem-plugins\[hnsw\]") as told:
        index.add(range(4097, 5001), data[4096:])
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VectorIndex(16).add(range(1, 5001), data)
        assert index.engine == "exact"
        assert index.search(data[7], 1)[0].tolist() == [8]
    with pytest.raises(ImportError, match="hnsw"):
        VectorIndex(16, engine="hnswlib")
    with pytest.raises(ValueError, match="engine"):
        VectorIndex(16, engine="faiss")  # type: ignore[arg-type]


def test_when_hnswlib_fails_the_scan_takes_over() -> None:
    pytest.importorskip("hnswlib")
    index = VectorIndex(8, engine="hnswlib")
    data = np.random.default_rng(0).normal(size=(50, 8))
    index.add(range(1, 51), data)
    assert index._graph is not None
    index._graph._graph.remove(np.array([4711]))  # unknown to hnswlib
    assert index.search(data[3], 1)[0].tolist() == [4]
    assert index.engine == "exact"
