"""Inverted lists: for every term, in which slots it stands and how often."""

from __future__ import annotations

import copy
from array import array

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

# New postings wait in small per-term arrays until there are this many (and a quarter of the big lists), then they are
# merged in, so that a single update stays cheap and a bulk load is linear.
SMALLEST_MERGE = 50_000


def sorted_unique(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct keys, ascending, and how often each occurs; where most differ, twice as fast as numpy's.

    Args:
        keys: In any order; they are sorted in place.
    """
    keys.sort()
    first = np.flatnonzero(np.concatenate((np.ones(min(1, len(keys)), dtype=np.bool_), keys[1:] != keys[:-1])))
    return keys[first], np.diff(first, append=len(keys))


class Postings:
    """Per term, slots in ascending order with the term's frequency there.

    The bulk lies in three flat arrays (as in a compressed sparse row matrix); the newest slots in per-term arrays.
    """

    def __init__(self) -> None:
        self.starts = np.zeros(1, dtype=np.int64)
        self.slots = np.empty(0, dtype=np.int32)
        # As float32 because BM25 computes with them; whole numbers up to 2**24 are exact.
        self.frequencies = np.empty(0, dtype=np.float32)
        self._recent: dict[int, array[int]] = {}  # slot, frequency, slot, frequency, ...
        self._recent_count = 0

    def add(self, terms: Ints, slots: Ints, term_count: int) -> NDArray[np.int64]:
        """Add occurrences; the slots are higher than all earlier ones.

        Returns:
            The term of each new posting: how often a term is in it, in so many of the slots it stands.

        Args:
            terms: Term of each token, in any order.
            slots: Slot of each token, ascending.
            term_count: Number of terms known by now.
        """
        if not len(terms):
            return np.empty(0, dtype=np.int64)
        width = int(slots[-1]) - int(slots[0]) + 1
        keys, frequencies = sorted_unique(terms.astype(np.int64) * width + (slots - slots[0]))
        found, local = np.divmod(keys, width)
        pairs = np.empty((len(keys), 2), dtype=np.int32)
        pairs[:, 0] = local + slots[0]
        pairs[:, 1] = frequencies
        if len(keys) > self._merge_size():
            self.merge(term_count)
            self._append(found, pairs, term_count)
            return found
        bounds = np.flatnonzero(np.diff(found, prepend=-1))
        ends = np.append(bounds[1:], len(found)).tolist()
        data = pairs.tobytes()
        for term, start, end in zip(found[bounds].tolist(), bounds.tolist(), ends, strict=True):
            recent = self._recent.get(term)
            if recent is None:
                recent = self._recent[term] = array("i")
            recent.frombytes(data[8 * start : 8 * end])
        self._recent_count += len(keys)
        if self._recent_count > self._merge_size():
            self.merge(term_count)
        return found

    def of(self, term: int) -> tuple[Ints, Floats]:
        """Return the slots (ascending, dead ones included) and frequencies of a term."""
        slots, frequencies = self._bulk(term)
        recent = self._recent.get(term)
        if recent is None:
            return slots, frequencies
        pairs = np.array(recent, dtype=np.int32).reshape(-1, 2)
        newest = pairs[:, 1].astype(np.float32)
        return np.concatenate((slots, pairs[:, 0])), np.concatenate((frequencies, newest))

    def frequency(self, term: int, slots: NDArray[np.int64]) -> Floats:
        """Return how often a term stands in each of the given slots."""
        found, frequencies = self.of(term)
        if not len(found):
            return np.zeros(len(slots), dtype=np.float32)
        # Of one type, or searchsorted would convert the whole list.
        positions = np.minimum(np.searchsorted(found, slots.astype(np.int32)), len(found) - 1)
        return np.where(found[positions] == slots, frequencies[positions], np.float32(0))

    def merge(self, term_count: int) -> None:
        """Move the newest postings into the flat arrays."""
        if not self._recent:
            self._extend_starts(term_count)
            return
        terms = sorted(self._recent)
        lengths = [len(self._recent[term]) // 2 for term in terms]
        pairs = np.frombuffer(b"".join(self._recent[term].tobytes() for term in terms), dtype=np.int32).reshape(-1, 2)
        self._append(np.repeat(np.array(terms, dtype=np.int64), lengths), pairs, term_count)
        self._recent = {}
        self._recent_count = 0

    def merged(self, term_count: int) -> Postings:
        """Return the same postings, all in the flat arrays, leaving these as they are (others may be reading)."""
        postings = copy.copy(self)
        postings.merge(term_count)
        return postings

    def keep(self, new_slot: Ints, new_term: Ints, term_count: int) -> None:
        """Renumber slots and terms; those numbered -1 are dropped. The orders must be kept."""
        self.merge(len(new_term))
        terms = new_term[np.repeat(np.arange(len(new_term)), np.diff(self.starts))]
        slots = new_slot[self.slots]
        kept = (slots >= 0) & (terms >= 0)
        self.slots, self.frequencies = slots[kept], self.frequencies[kept]
        self.starts = np.zeros(term_count + 1, dtype=np.int64)
        np.cumsum(np.bincount(terms[kept], minlength=term_count), out=self.starts[1:])

    def _merge_size(self) -> int:
        return max(SMALLEST_MERGE, len(self.slots) // 4)

    def _bulk(self, term: int) -> tuple[Ints, Floats]:
        if term + 1 >= len(self.starts):
            return self.slots[:0], self.frequencies[:0]
        start, end = self.starts[term], self.starts[term + 1]
        return self.slots[start:end], self.frequencies[start:end]

    def _extend_starts(self, term_count: int) -> None:
        missing = term_count + 1 - len(self.starts)
        if missing > 0:
            self.starts = np.concatenate((self.starts, np.full(missing, self.starts[-1])))

    def _append(self, terms: NDArray[np.int64], pairs: Ints, term_count: int) -> None:
        """Merge in pairs of slot and frequency that are sorted by term, then slot."""
        self._extend_starts(term_count)
        added = np.bincount(terms, minlength=term_count)
        shift = np.zeros(term_count + 1, dtype=np.int64)
        np.cumsum(added, out=shift[1:])
        total = len(self.slots) + len(pairs)
        old = np.arange(len(self.slots)) + np.repeat(shift[:-1], np.diff(self.starts))
        new = np.arange(len(pairs)) + self.starts[terms + 1]
        for name, values in (("slots", pairs[:, 0]), ("frequencies", pairs[:, 1])):
            merged = np.empty(total, dtype=getattr(self, name).dtype)
            merged[old] = getattr(self, name)
            merged[new] = values
            setattr(self, name, merged)
        self.starts = self.starts + shift
