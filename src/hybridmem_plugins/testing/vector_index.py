"""What retrieval counts on in a vector index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_DIMENSION = 8


def _refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


class VectorIndexSuite:
    """Tests of a vector index with `add`, `remove`, `search`, `similarity`, `vectors`; override `make`.

    Attributes:
        size: Vectors that the tests use; raise it beyond the point from which an approximate index is used.
        recall: Least share of the true neighbours that a search must find.
    """

    size = 300
    recall = 1.0

    def make(self, dimension: int) -> Any:
        """Return an empty index for vectors of a length."""
        raise NotImplementedError

    def test_nearest_first_with_cosine_similarity(self) -> None:
        """Lengths do not count; scores fall; rows of equal score ascend."""
        index = self.make(2)
        index.add([5, 3, 9], [[10, 0], [1, 1], [2, 0]])
        rows, scores = index.search([1, 0], 3)
        assert rows.tolist() == [5, 9, 3]
        assert np.allclose(scores, [1, 1, 0.5**0.5], atol=1e-5)

    def test_finds_what_a_scan_finds_within_masks(self) -> None:
        """Whole, half and narrow masks hold, and k rows come back where that many are allowed."""
        index, vectors = self._filled()
        query = vectors[3] + 0.1
        scores = vectors @ query / np.linalg.norm(vectors, axis=1)
        for share in (1, 2, 50):
            allowed = np.zeros(self.size + 1, dtype=np.bool_)
            allowed[1::share] = True
            order = [row for row in (np.argsort(-scores) + 1).tolist() if allowed[row]][:5]
            rows, _ = index.search(query, 5, allowed)
            assert all(allowed[rows])
            assert len(rows) == len(order)
            assert len(set(rows.tolist()) & set(order)) >= self.recall * len(order)

    def test_removed_rows_never_come_back(self) -> None:
        """Also not where only few are left."""
        index, vectors = self._filled()
        index.remove(list(range(4, self.size + 1)))
        index.remove([999_999])
        assert sorted(index.search(vectors[100], 50)[0].tolist()) == [1, 2, 3]
        assert len(index) == 3
        index.remove([1, 2, 3])
        assert len(index.search(vectors[0], 5)[0]) == 0

    def test_similarity_and_vectors_by_row(self) -> None:
        """Rows are read in the order asked for."""
        index, vectors = self._filled()
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.allclose(index.vectors([7, 2]), unit[[6, 1]], atol=1e-5)
        assert np.allclose(index.similarity(vectors[6], [7, 2]), unit[[6, 1]] @ unit[6], atol=1e-4)

    def test_bad_input_is_refused_and_changes_nothing(self) -> None:
        """NaN, wrong lengths, zero vectors and k < 1."""
        index, vectors = self._filled()
        bad = [[float("nan")] * _DIMENSION, [1.0] * (_DIMENSION + 1), [0.0] * _DIMENSION]
        assert all(_refused(lambda v=v: index.add([self.size + 1], [v])) for v in bad)  # type: ignore[misc]
        assert _refused(lambda: index.search(vectors[0], 0))
        assert _refused(lambda: index.search([1.0], 1))
        assert len(index) == self.size

    def _filled(self) -> tuple[Any, Any]:
        vectors = np.random.default_rng(1).normal(size=(self.size, _DIMENSION)).astype(np.float32)
        index = self.make(_DIMENSION)
        index.add(list(range(1, self.size + 1)), vectors)
        return index, vectors
