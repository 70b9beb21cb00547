"""Python's search for reference cycles pauses while passages are added, and only then."""

import gc

import pytest

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.memory.garbage import collection_paused


def test_it_goes_on_when_the_last_one_leaves() -> None:
    first, second = collection_paused(), collection_paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_refused_passage_leaves_it_on() -> None:
    with HybridMemory() as memory, pytest.raises(ValueError, match="empty"):
        memory.add([Passage("fine"), Passage(" ")])
    assert gc.isenabled()
