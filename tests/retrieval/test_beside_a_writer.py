"""A short version of benchmarks/concurrency.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def concurrency() -> Any:
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are not here")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("concurrency_benchmark", BENCHMARKS / "concurrency.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_sixteen_threads_search_beside_a_writer(concurrency: Any, tmp_path: Path) -> None:
    searched, written, errors = concurrency.threads(3, tmp_path / "m")
    assert errors == []
    assert searched > 16
    assert written > 0


def test_the_check_notices_half_a_change(concurrency: Any) -> None:
    from hybridmem_plugins import HybridMemory

    with HybridMemory() as memory:
        memory.add([concurrency.pair(1, 5)[0], concurrency.pair(1, 6)[1]])
        with pytest.raises(AssertionError, match="half a change"):
            concurrency.look(memory, [0] * 6, 1)
        memory.add(concurrency.pair(1, 3))
        with pytest.raises(AssertionError, match="generation 3 after 4"):
            concurrency.look(memory, [4] * 6, 1)
