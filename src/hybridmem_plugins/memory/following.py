"""A vector database that follows the journal: told of new vectors before a commit, and of gone ones after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.memory.caches import Caches
from hybridmem_plugins.memory.coordinator import Added
from hybridmem_plugins.memory.journal import Journal
from hybridmem_plugins.memory.rows import Mask, Rows
from hybridmem_plugins.memory.snapshot import Transaction

_BATCH = 1000


class VectorMaker(Protocol):
    """Makes a vector tier that lies in a database."""

    @property
    def name(self) -> str:
        """The database, and the collection in it."""
        ...

    def __call__(
        self,
        memory: str,
        dimension: int,
        read: Callable[[Sequence[int]], Mapping[int, bytes]],
        rows: Callable[[], Rows],
    ) -> Any:
        """Return the tier of a memory; see `ExternalVectors`."""
        ...


class FilteredMask(np.ndarray):
    """A mask over rows that knows which filter it stands for.

    Attributes:
        query: The filter; None where it is unknown.
    """

    query: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, mask: Mask, query: Any) -> FilteredMask:
        """Return a view of a mask with its filter."""
        made = mask.view(cls)
        made.query = query if isinstance(query, Mapping) else None
        return made


class Following:
    """Keeps a vector database level with the journal.

    New vectors go there before the journal's commit, so that whatever the journal holds is there; should the commit
    fail, rows that no passage has are left behind, which no search lets through and the next passage of that row
    overwrites. Vectors of removed passages go after the commit, and their rows are noted down in it, so that the next
    change or opening removes them where this one could not.

    Args:
        name: Of the database and the collection in it.
        journal: The truth.
        caches: Where the vector tier is.
    """

    def __init__(self, name: str, journal: Journal, caches: Caches) -> None:
        self._name = name
        self._journal = journal
        self._caches = caches

    def open(self) -> None:
        """Give a database that was not there before everything, and take from one that was what should be gone."""
        tier: Any = self._caches.vectors
        if self._journal.read_only or tier is None:
            return
        with self._journal.transaction() as transaction:
            if transaction.meta("vectors_engine") != self._name:
                for records in transaction.batches(_BATCH):
                    rows = [record.row for record in records]
                    metadata = [json.loads(record.metadata) for record in records]
                    tier.upsert(rows, transaction.vectors(rows, tier.dimension), metadata)
            tier.forget(_pending(transaction))
            transaction.set_meta("vectors_pending", "[]")
            transaction.set_meta("vectors_engine", self._name)
            transaction.keep()

    def before(
        self,
        transaction: Transaction,
        removed: Sequence[int],
        added: Added | None,
    ) -> None:
        """Give the database what a transaction is about to add; nothing is committed where it fails."""
        if added is not None:
            rows, batch, vectors = added
            tier: Any = self._caches.vector_index(vectors.shape[1])
            tier.upsert(rows, vectors, [passage.metadata for passage in batch.passages])
        gone = [*_pending(transaction), *removed]
        transaction.set_meta("vectors_pending", json.dumps(gone))
        transaction.set_meta("vectors_engine", self._name)

    def after(self) -> None:
        """Take from the database what was removed.

        Raises:
            EngineError: It failed; the passages are gone from the memory all the same.
        """
        tier: Any = self._caches.vectors
        if tier is None:
            return
        with self._journal.snapshot() as snapshot:
            gone = _pending(snapshot)
        if not gone:
            return
        try:
            tier.forget(gone)
        except EngineError as error:
            msg = f"{error}. The memory has changed; the database will be asked to forget at the next change or opening"
            raise EngineError(msg) from None
        with self._journal.transaction() as transaction:
            transaction.set_meta("vectors_pending", "[]")
            transaction.keep()


def _pending(snapshot: Any) -> list[int]:
    rows: list[int] = json.loads(snapshot.meta("vectors_pending") or "[]")
    return rows
