"""Databases that follow the journal: told of what is new before a commit, and of what is gone after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import EngineError
from hybridmem_plugins.extraction.model import Extraction
from hybridmem_plugins.extraction.tokens import words
from hybridmem_plugins.memory.caches import Batch, full_text, to_passage
from hybridmem_plugins.memory.coordinator import Added
from hybridmem_plugins.memory.journal import Journal
from hybridmem_plugins.memory.rows import Mask, Rows
from hybridmem_plugins.memory.snapshot import Record, Transaction

_BATCH = 1000
# More changes than these that a database has missed are not made up for one by one.
_FEW = 10_000


@runtime_checkable
class Follower(Protocol):
    """A tier that lies in a database."""

    @property
    def name(self) -> str:
        """The database, and the part of it that is the memory's."""
        ...

    def bind(self, memory: str) -> None:
        """Hear which memory this is, by its id."""
        ...

    def restart(self) -> None:
        """Forget all that the database has of this memory."""
        ...

    def whole(self) -> bool:
        """Say whether the database seems to have what it was given, as far as it can be asked."""
        ...

    def send(
        self,
        rows: Sequence[int],
        batch: Batch,
        vectors: NDArray[np.float32],
        removed: Collection[int] = (),
        *,
        everything: bool = False,
    ) -> None:
        """Store new passages in the database; those of the same row are replaced.

        Args:
            rows: Their rows.
            batch: The passages.
            vectors: Their vectors.
            removed: Rows that go in the same change, or have gone already.
            everything: All passages come, one batch after another, and the tier knows them all already.
        """
        ...

    def forget(self, rows: Sequence[int]) -> None:
        """Delete passages from the database; unknown rows are ignored."""
        ...


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
    """Keeps a database level with the journal.

    New passages go there before the journal's commit, so that whatever the journal holds is there; should the commit
    fail, rows that no passage has are left behind, which no search lets through and the next passage of that row
    overwrites. Removed passages go after the commit, and their rows are noted down in it, so that the next change or
    opening removes them where this one could not. The journal's write lock is held whenever the database is written to.

    Args:
        what: What the database holds: `vectors` or `graph`.
        name: Of the database, and the part of it that is the memory's.
        journal: The truth.
        tier: Returns the tier for vectors of a length; for None the one there is, if any.
    """

    def __init__(self, what: str, name: str, journal: Journal, tier: Callable[[int | None], Follower | None]) -> None:
        self._what = what
        self._name = name
        self._journal = journal
        self._tier = tier

    def open(self) -> None:
        """Make up for what the database has missed; one that was not there before is given everything."""
        tier = self._tier(None)
        if self._journal.read_only or tier is None:
            return
        with self._journal.transaction() as transaction:
            missed = self._missed(transaction)
            if missed is not None:
                gone, new = missed
                tier.forget([*self._pending(transaction), *gone])
                if new:
                    self._give(transaction, tier, list(transaction.full_records(new)), gone)
            if missed is None or not tier.whole():
                tier.restart()
                for records in transaction.batches(_BATCH):
                    self._give(transaction, tier, records, everything=True)
            self._note(transaction, transaction.version(), [])
            transaction.keep()

    def before(self, transaction: Transaction, removed: Sequence[int], added: Added | None) -> None:
        """Give the database what a transaction is about to add; nothing is committed where it fails."""
        if added is not None:
            rows, batch, vectors = added
            tier = self._tier(vectors.shape[1])
            assert tier is not None
            tier.send(rows, batch, vectors, removed)
        self._note(transaction, transaction.version() + 1, [*self._pending(transaction), *removed])

    def after(self) -> None:
        """Take from the database what was removed.

        Raises:
            EngineError: It failed; the passages are gone from the memory all the same.
        """
        tier = self._tier(None)
        if tier is None:
            return
        with self._journal.snapshot() as snapshot:
            if not self._pending(snapshot):
                return
        with self._journal.transaction() as transaction:
            try:
                tier.forget(self._pending(transaction))
            except EngineError as error:
                later = "the database will be asked to forget at the next change or opening"
                msg = f"{error}. The memory has changed; {later}"
                raise EngineError(msg) from None
            transaction.set_meta(f"{self._what}_pending", "[]")
            transaction.keep()

    def _missed(self, transaction: Transaction) -> tuple[list[int], list[int]] | None:
        """Return the rows that went and came without the database being told; None where it is to start anew."""
        known = transaction.meta(f"{self._what}_version")
        if transaction.meta(f"{self._what}_engine") != self._name or known is None:
            return None
        changes = transaction.changes(int(known))
        if changes is None or len(changes) > _FEW:
            return None
        gone = {row for row, went in changes if went}
        return sorted(gone), [row for row, went in changes if not went and row not in gone]

    def _give(
        self,
        transaction: Transaction,
        tier: Follower,
        records: Sequence[Record],
        gone: Collection[int] = (),
        *,
        everything: bool = False,
    ) -> None:
        rows = [record.row for record in records]
        vectors = transaction.vectors(rows, int(transaction.meta("dimension")))
        tier.send(rows, _batch(records), vectors, gone, everything=everything)

    def _pending(self, snapshot: Any) -> list[int]:
        rows: list[int] = json.loads(snapshot.meta(f"{self._what}_pending") or "[]")
        return rows

    def _note(self, transaction: Transaction, version: int, pending: list[int]) -> None:
        transaction.set_meta(f"{self._what}_engine", self._name)
        transaction.set_meta(f"{self._what}_version", version)
        transaction.set_meta(f"{self._what}_pending", json.dumps(pending))


def _batch(records: Sequence[Record]) -> Batch:
    return Batch(
        [to_passage(record) for record in records],
        [Extraction.from_json(record.extraction) for record in records],
        [words(full_text(record.title, record.text)) for record in records],
    )
