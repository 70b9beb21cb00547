"""The slow part of adding passages, done before any lock is taken: vectors, extractions and tokens."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridmem_plugins.extraction.builtin import BuiltinExtractor
from hybridmem_plugins.extraction.model import Extraction, Extractor
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.caches import Batch, full_text
from hybridmem_plugins.memory.embedding import Embedder, embed
from hybridmem_plugins.memory.garbage import collection_paused
from hybridmem_plugins.memory.graph import NODE_PREFIX
from hybridmem_plugins.memory.snapshot import NewRecord, Record
from hybridmem_plugins.memory.validation import Entry
from hybridmem_plugins.memory.vectors import normalised
from hybridmem_plugins.passage import Passage

_FEW = 32  # passages for which a second thread does not pay


class Stored(Protocol):
    """What is stored already, as far as adding has to know."""

    def records_by_id(self, ids: Collection[str]) -> dict[str, Record]:
        """Read passages by id."""
        ...

    def vector_bytes(self, rows: Sequence[int]) -> dict[int, bytes]:
        """Read vectors by row, as little-endian float32."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A passage ready to be stored."""

    passage: Passage
    record: NewRecord
    extraction: Extraction
    tokens: list[str]


class Preparation:
    """One call of `add` on its way into the store.

    Args:
        entries: Checked passages.
        vectors: Shape `(n, dimension)`; None asks the embedder.
        embedder: Needed where no vectors are given.
        extractor: None finds nothing.
        batch_size: Passages embedded and extracted at once.
        extractions: What was read in each passage; None asks the extractor.

    Raises:
        ValueError: Bad vectors or extractions, or neither vectors nor an embedder.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        vectors: ArrayLike | None,
        embedder: Embedder | None,
        extractor: Extractor | None,
        batch_size: int,
        extractions: Sequence[Extraction] | None = None,
    ) -> None:
        if extractions is not None and len(extractions) != len(entries):
            msg = f"{len(extractions)} extractions for {len(entries)} passages"
            raise ValueError(msg)
        self._read = None if extractions is None else {e.id: x for e, x in zip(entries, extractions, strict=True)}
        self._entries = {entry.id: entry for entry in entries}
        self._embedder = embedder
        self._extractor = extractor
        self._batch_size = batch_size
        self._given: dict[str, NDArray[np.float32]] | None = None
        self._ready: dict[str, Prepared] = {}
        self.dimension = 0
        if vectors is not None:
            normalised(vectors, len(entries))
            matrix = np.asarray(vectors, dtype=np.float32)
            self.dimension = matrix.shape[1]
            self._given = {entry.id: vector for entry, vector in zip(entries, matrix, strict=True)}
        elif embedder is None:
            msg = "this memory has no embedder: open it with one, or pass vectors"
            raise ValueError(msg)

    @classmethod
    def of_records(cls, records: Sequence[NewRecord]) -> Preparation:
        """Return passages that another memory has prepared."""
        entries = [Entry(Passage(r.text, r.title, r.id, json.loads(r.metadata)), r.id, r.metadata) for r in records]
        vectors = np.stack([np.frombuffer(record.vector, dtype="<f4") for record in records])
        made = cls(entries, vectors, None, None, len(records))
        for entry, record in zip(entries, records, strict=True):
            tokens = words(full_text(record.title, record.text))
            made._ready[entry.id] = Prepared(entry.passage, record, Extraction.from_json(record.extraction), tokens)
        return made

    def changed(self, stored: Stored) -> list[tuple[Entry, int | None]]:
        """Return the passages that are not stored just so, each with the row that it replaces."""
        found = stored.records_by_id(self._entries.keys())
        known = stored.vector_bytes([record.row for record in found.values()]) if self._given is not None else {}
        return [
            (entry, None if old is None else old.row)
            for entry in self._entries.values()
            if (old := found.get(entry.id)) is None or not self._same(old, entry, known)
        ]

    def missing(self, stored: Stored) -> list[Entry]:
        """Return the passages that are to be stored and have not been prepared."""
        return [entry for entry, _ in self.changed(stored) if entry.id not in self._ready]

    def unprepared(self, changed: Sequence[tuple[Entry, int | None]]) -> list[Entry]:
        """Return those of the changed passages that have not been prepared."""
        return [entry for entry, _ in changed if entry.id not in self._ready]

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Embed and extract.

        Raises:
            ValueError: The embedder or the extractor gave something useless.
        """
        passages = [
            Passage(e.passage.text, title=e.passage.title, id=e.id, metadata=json.loads(e.metadata_json))
            for e in entries
        ]
        # Embedders leave Python's lock to others for most of their time.
        with ThreadPoolExecutor(1) as pool:
            vectors = pool.submit(copy_context().run, self._vectors, passages) if len(passages) > _FEW else None
            matrix = self._vectors(passages) if vectors is None else None
            extractions = self._extract(passages)
            with collection_paused():
                read = [extraction.to_json() for extraction in extractions]
                tokens = [words(full_text(passage.title, passage.text)) for passage in passages]
            if vectors is not None:
                matrix = vectors.result()
        assert matrix is not None
        parts = zip(entries, passages, matrix.astype("<f4"), extractions, read, tokens, strict=True)
        with collection_paused():
            for entry, passage, vector, extraction, text, said in parts:
                record = NewRecord(
                    entry.id, passage.title, passage.text, entry.metadata_json, extraction=text, vector=vector.tobytes()
                )
                self._ready[entry.id] = Prepared(passage, record, extraction, said)

    def take(self, changed: Sequence[tuple[Entry, int | None]]) -> tuple[list[NewRecord], Batch, NDArray[np.float32]]:
        """Return what to store for the changed passages: records, what the tiers want, and vectors."""
        ready = [self._ready[entry.id] for entry, _ in changed]
        batch = Batch([r.passage for r in ready], [r.extraction for r in ready], [r.tokens for r in ready])
        joined = b"".join(r.record.vector for r in ready)
        vectors = np.frombuffer(joined, dtype="<f4").reshape(len(ready), -1).astype(np.float32)
        return [r.record for r in ready], batch, vectors

    def _same(self, old: Record, entry: Entry, vectors: Mapping[int, bytes]) -> bool:
        if (old.title, old.text, old.metadata) != entry.key:
            return False
        if self._given is None:
            return True
        return vectors[old.row] == self._given[entry.id].astype("<f4").tobytes()

    def _vectors(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        if self._given is not None:
            return np.stack([self._given[str(passage.id)] for passage in passages])
        assert self._embedder is not None
        texts = [full_text(passage.title, passage.text) for passage in passages]
        matrix = embed(self._embedder, texts, self._batch_size)
        try:
            normalised(matrix, len(passages), self.dimension or None)
        except ValueError as error:
            msg = f"the embedder gave vectors that cannot be stored: {error}"
            number = str(error).split()[1] if str(error).startswith("vector ") else ""
            if number.isdigit():
                msg += f" (passage id {passages[int(number)].id!r})"
            raise ValueError(msg) from None
        self.dimension = matrix.shape[1]
        return matrix

    def _extract(self, passages: list[Passage]) -> list[Extraction]:
        if self._read is None and self._extractor is None:
            return [Extraction()] * len(passages)
        extractions: list[Extraction] = []
        if self._read is not None:
            extractions = [self._read[str(passage.id)] for passage in passages]
        elif self._extractor is not None:
            extractions = self._ask(self._extractor, passages)
        for passage, extraction in zip(passages, extractions, strict=True):
            trusted = self._read is None and type(self._extractor) is BuiltinExtractor
            problem = None if trusted else _problem(extraction)
            if problem:
                msg = f"the extractor {type(self._extractor).__name__} gave {problem} (passage id {passage.id!r})"
                raise ValueError(msg)
        return extractions

    def _ask(self, extractor: Extractor, passages: list[Passage]) -> list[Extraction]:
        extractions: list[Extraction] = []
        if type(extractor) is BuiltinExtractor:  # others may wait for a model or for a server
            with collection_paused():
                return extractor.extract(passages)
        for start in range(0, len(passages), self._batch_size):
            extractions += extractor.extract(passages[start : start + self._batch_size])
        if len(extractions) != len(passages):
            msg = f"the extractor gave {len(extractions)} extractions for {len(passages)} passages"
            raise ValueError(msg)
        return extractions


def _problem(extraction: Extraction) -> str | None:
    """Return what makes an extraction useless, None where all is well."""
    if not isinstance(extraction, Extraction):
        return f"a {type(extraction).__name__}, not an Extraction"
    facts = [(fact.subject, fact.relation, fact.object) for fact in extraction.facts]
    names = [*extraction.defines, *(mention.name for mention in extraction.mentions)]
    for name in [*names, *(part for fact in facts for part in fact)]:
        if not isinstance(name, str) or not name or name.startswith(NODE_PREFIX):
            return f"the name or relation {name!r}; names are normalised with name_key and not empty"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"the name or relation {name!r}, which has a lone surrogate"
    return None
