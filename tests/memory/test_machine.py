"""Random sequences of everything a store can do, against a dictionary."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_helpers import FakeEmbedder, FakeExtractor, FakeGraph
from test_store import assert_whole, contents

from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.filters import compile_filter
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.passage import Passage

IDS = st.sampled_from(["a", "b", "c", "d'; DROP TABLE passages; --", "../e", "\x00", "é", "\U0001f642"])
TEXTS = st.one_of(
    st.lists(st.sampled_from(["Ada", "wrote", "notes", "on", "DRAM", "東京", "2001"]), min_size=1, max_size=6).map(
        " ".join
    ),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip),
)
METADATA = st.dictionaries(
    st.sampled_from(["tenant", "n", "x.y"]), st.sampled_from([1, 2, "a", None, True, [1]]), max_size=2
)
PASSAGES = st.builds(Passage, text=TEXTS, title=st.one_of(st.none(), st.just(""), TEXTS), id=IDS, metadata=METADATA)
FILTERS = st.sampled_from(
    [{"tenant": "a"}, {"n": {"$gt": 1}}, {"n": {"$ne": 1}}, {"tenant": {"$exists": False}}, {"x.y": {"$in": [1, True]}}]
)


class Machine(RuleBasedStateMachine):
    """One store on a folder, a second one that reads (as another process would), and the model."""

    @initialize(in_memory=st.booleans())
    def begin(self, in_memory: bool) -> None:
        self.parent = tempfile.mkdtemp()
        self.folder = None if in_memory else Path(self.parent) / "m"
        self.model: dict[str, Passage] = {}
        self.other: MemoryStore | None = None
        self.store = self.open()

    def open(self) -> MemoryStore:
        return MemoryStore(self.folder, embedder=FakeEmbedder(4), extractor=FakeExtractor(), graph=FakeGraph())

    @rule(passages=st.lists(PASSAGES, min_size=1, max_size=4, unique_by=lambda passage: passage.id))
    def add(self, passages: list[Passage]) -> None:
        assert self.store.add(passages) == [passage.id for passage in passages]
        self.model.update({str(passage.id): passage for passage in passages})

    @rule(ids=st.lists(IDS, max_size=3))
    def delete(self, ids: list[str]) -> None:
        expected = [identity for identity in dict.fromkeys(ids) if identity in self.model]
        assert self.store.delete(ids) == expected
        for identity in expected:
            del self.model[identity]

    @rule(query=FILTERS)
    def delete_where(self, query: dict[str, Any]) -> None:
        predicate = compile_filter(query)
        expected = sorted(key for key, passage in self.model.items() if predicate(passage.metadata))
        assert self.store.delete_where(query) == expected
        for identity in expected:
            del self.model[identity]

    @rule()
    def compact(self) -> None:
        assert self.store.compact()

    @precondition(lambda self: self.folder is not None)
    @rule(save=st.booleans())
    def reopen(self, save: bool) -> None:
        if not save:
            self.store._coordinator._unsaved = 0
        self.store.close()
        self.store = self.open()

    @precondition(lambda self: self.folder is not None)
    @rule()
    def look_from_elsewhere(self) -> None:
        if self.other is None:
            self.other = self.open()
        assert contents(self.other) == self.model
        assert_whole(self.other)

    @precondition(lambda self: self.folder is not None)
    @rule()
    def change_sides(self) -> None:
        self.other = self.other or self.open()
        self.store, self.other = self.other, self.store

    @rule(query=FILTERS, question=TEXTS)
    def search(self, query: dict[str, Any], question: str) -> None:
        predicate = compile_filter(query)
        expected = {key for key, passage in self.model.items() if predicate(passage.metadata)}
        with self.store.reading() as store:
            allowed = store.allowed(query)
            assert allowed is not None
            assert set(store.ids(np.flatnonzero(allowed))) == expected
            asked = words(question)
            lexical = {key for key in expected if set(asked) & set(_words(self.model[key]))}
            assert set(store.ids(store.lexical.search(asked, 99, allowed)[0])) == lexical
            if store.vectors is not None:
                vector = FakeEmbedder(4).embed_query(question)
                assert set(store.ids(store.vectors.search(vector, 99, allowed)[0])) == expected

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "store"):
            assert contents(self.store) == self.model
            assert_whole(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for store in (self.store, self.other):
                if store is not None:
                    store.close()
            shutil.rmtree(self.parent)


def _words(passage: Passage) -> list[str]:
    return words(f"{passage.title}\n{passage.text}" if passage.title else passage.text)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
