"""The lexical tier: BM25 over token lists, updated in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError
from hybridmem_plugins.memory.cachefile import load_cache, save_cache
from hybridmem_plugins.memory.phrases import count_terms
from hybridmem_plugins.memory.rows import Mask, Rows
from hybridmem_plugins.memory.token_table import TokenTable

Floats = NDArray[np.float32]

# A term in more than this share of the passages is added up over all of them: 0.1 ms instead of 0.4 ms at 100,000.
DENSE_SHARE = 0.15
DENSE_TERMS = 32  # of which the arrays are kept: at 100,000 passages 13 MB

# To count terms in some passages, reading their tokens beats looking up each term's list, up to about this many.
_READ_TOKENS = 50_000

_NOTHING = np.empty(0, dtype=np.float32)


class _Counted(NamedTuple):
    """The passages that a search counts: all, or those of a filter alone, as if there were no others.

    Attributes:
        slots: Mask over slots; None for all.
        passages: How many there are.
        norms: `k1 * (1 - b + b * length / average length)` of every slot; infinite for dead ones.
        idf: Weights of the tokens asked for last, as one question asks for the same several times.
    """

    slots: Mask | None
    passages: int
    norms: Floats
    idf: dict[tuple[str, ...], Floats]


class LexicalIndex(TokenTable):
    """BM25 as Lucene computes it, without its constant factor (Robertson and Zaragoza, 2009; Kamphuis et al., 2020).

    The score of a passage is the sum over the query's tokens of
    `idf * tf / (tf + k1 * (1 - b + b * length / average length))` with `idf = ln(1 + (N - df + 0.5) / (df + 0.5))`.
    After any sequence of changes, scores equal those of a fresh index over the same passages; under a mask, those of
    one over the allowed passages alone, so that no score tells of the others. Not safe for changing in one thread
    while another searches; `MemoryStore` holds the lock.

    Args:
        k1: How slowly repeated tokens saturate.
        b: How much long passages are held back, from 0 to 1.

    Example:
        >>> index = LexicalIndex()
        >>> index.add([1, 2], [["dram", "leaks"], ["nvm", "keeps", "dram", "honest"]])
        >>> rows, scores = index.search(["nvm"], k=5)
        >>> rows.tolist()
        [2]
    """

    _all: _Counted | None
    _allowed: tuple[Mask, _Counted] | None  # of the last mask: one question asks several times
    _dense: dict[int, Floats]

    def __init__(self, k1: float = 1.2, b: float = 0.75) -> None:
        if not (k1 >= 0 and 0 <= b <= 1):
            msg = f"k1 must not be negative and b must lie in 0..1, not {k1} and {b}"
            raise ValueError(msg)
        self.k1 = k1
        self.b = b
        super().__init__()

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._forget()

    def add(self, rows: Sequence[int] | Rows, token_lists: Sequence[Sequence[str]]) -> None:
        """Store the tokens of new rows.

        Raises:
            ValueError: The counts differ, or a row was used before.
        """
        super().add(rows, token_lists)
        self._all = self._allowed = None

    def remove(self, rows: Sequence[int] | Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        super().remove(rows)
        self._all = self._allowed = None

    def compact(self) -> None:
        """Drop every trace of removed rows. Term ids change."""
        super().compact()
        self._forget()

    def search(self, tokens: Sequence[str], k: int, allowed: Mask | None = None) -> tuple[Rows, Floats]:
        """Return the rows with the highest scores above zero, best first.

        Args:
            tokens: Normalised tokens of the query; repeated ones count as often.
            k: How many at most.
            allowed: Mask over rows; None allows all.

        Returns:
            Rows (int64) and scores (float32), sorted by descending score, then by row.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            msg = f"k must be at least 1, not {k}"
            raise ValueError(msg)
        counted = self._counted(allowed)
        weighted = self._weigh(tokens, counted)
        scores = np.zeros(self._map.slot_count, dtype=np.float32)
        mask, norms = counted.slots, counted.norms
        added = np.cumsum([weight for _, weight in reversed(weighted)])
        bounds = added[::-1].tolist()  # what a term and later ones can add
        for position, (term, weight) in enumerate(weighted):
            if position and self._is_frequent(term):
                close = self._still_close(scores, mask, k, bounds[position])
                if close is not None:
                    for later, later_weight in weighted[position:]:
                        scores[close] += self._gain(later, later_weight, close, norms)
                    return self._best(close, scores, k)
            if self._is_frequent(term):
                frequencies = self._dense_frequencies(term)
                scores += np.float32(weight) * (frequencies / (frequencies + norms))
            else:
                slots, frequencies = self._postings.of(term)
                scores[slots] += np.float32(weight) * (frequencies / (frequencies + norms[slots]))
        if mask is not None:
            scores *= mask
        return self._best(np.flatnonzero(scores > 0), scores, k)

    def score(self, tokens: Sequence[str], rows: Sequence[int] | Rows) -> Floats:
        """Return the score of each of the given rows, zero where no token occurs.

        Raises:
            KeyError: A row is not in the index.
        """
        slots = self._map.held(rows)
        scores = np.zeros(len(slots), dtype=np.float32)
        counted = self._counted(None)
        for term, weight in self._weigh(tokens, counted):
            scores += self._gain(term, weight, slots, counted.norms)
        return scores

    def gains(self, tokens: Sequence[str], rows: Sequence[int] | Rows, allowed: Mask | None = None) -> Floats:
        """Return what each token adds to the score of each row, shape `(rows, tokens)`.

        Args:
            tokens: Distinct tokens of a query.
            rows: Rows that the mask allows.
            allowed: Mask over rows; None counts all.

        Raises:
            KeyError: A row is not in the index.
        """
        slots = self._map.held(rows)
        known = [(column, self._vocabulary[token]) for column, token in enumerate(tokens) if token in self._vocabulary]
        columns, terms = np.array(known, dtype=np.int32).reshape(-1, 2).T
        frequencies = np.zeros((len(slots), len(tokens)), dtype=np.float32)
        if int(self._lengths.view()[slots].sum()) <= _READ_TOKENS:
            counts = count_terms(self._tokens.view(), self._starts.view()[slots], self._lengths.view()[slots], terms)
            frequencies[:, columns] = counts
        else:
            for column, term in known:
                frequencies[:, column] = self._postings.frequency(term, slots)
        norms = self._counted(allowed).norms[slots][:, None]
        gains: Floats = self.idf(tokens, allowed) * (frequencies / (frequencies + norms))
        return gains

    def idf(self, tokens: Sequence[str], allowed: Mask | None = None) -> Floats:
        """Return the weight of each token, not to be changed; the one of an unseen token is the highest."""
        return self._idf(tokens, self._counted(allowed))

    def save(self, folder: Path, stamp: dict[str, Any] | None = None) -> None:
        """Write the index into a folder so that a crash at any instant leaves the old or the new one.

        Args:
            folder: Existing folder.
            stamp: Anything JSON that `load` shall return, such as the journal's version.
        """
        save_cache(folder, "lexical", {"k1": self.k1, "b": self.b, "stamp": stamp}, self._arrays())

    def load(self, folder: Path) -> Any:
        """Replace the content by what `save` wrote.

        Returns:
            The stamp given to `save`.

        Raises:
            MemoryFormatError: Something is missing or damaged.
        """
        header, arrays, _ = load_cache(folder, "lexical")
        try:
            self._restore(arrays)
            return header["stamp"]
        except (KeyError, ValueError, IndexError) as error:
            self.clear()
            msg = f"the lexical cache in {folder} is damaged: {error}"
            raise MemoryFormatError(msg) from error

    def _forget(self) -> None:
        """Drop what was computed for searches."""
        self._all = self._allowed = None
        self._dense = {}

    def _counted(self, allowed: Mask | None) -> _Counted:
        """Return what a mask lets count, kept until another one is asked for or something changes."""
        # Other threads search at the same time: what they keep is never returned here.
        if allowed is None:
            counted = self._all or _Counted(None, len(self), self._norms(self._token_count / max(1, len(self))), {})
            self._all = counted
            return counted
        last = self._allowed
        if last is not None and last[0] is allowed:
            return last[1]
        slots = self._map.allowed_slots(allowed)
        count = int(np.count_nonzero(slots))
        average = int(self._lengths.view()[slots].sum()) / max(1, count)
        counted = _Counted(slots, count, self._norms(average), {})
        self._allowed = allowed, counted
        return counted

    def _norms(self, average: float) -> Floats:
        norms = (self.k1 * (1 - self.b + self.b * (self._lengths.view() / max(average, 1e-9)))).astype(np.float32)
        norms[~self._map.live] = np.inf
        return norms

    def _idf(self, tokens: Sequence[str], counted: _Counted) -> Floats:
        asked = tuple(tokens)
        known = counted.idf.get(asked)
        if known is not None:
            return known
        counts = self.document_frequency(asked) if counted.slots is None else self._held(asked, counted.slots)
        weights: Floats = np.log1p((counted.passages - counts + 0.5) / (counts + 0.5)).astype(np.float32)
        weights.flags.writeable = False
        counted.idf.clear()
        counted.idf[asked] = weights
        return weights

    def _held(self, tokens: Sequence[str], slots: Mask) -> NDArray[np.int64]:
        """Return in how many of some slots each token stands."""
        terms = self.term_ids(tokens).tolist()
        held = [int(np.count_nonzero(slots[self._postings.of(term)[0]])) if term >= 0 else 0 for term in terms]
        return np.array(held, dtype=np.int64)

    def _weigh(self, tokens: Sequence[str], counted: _Counted) -> list[tuple[int, float]]:
        """Return the known terms of a query with their weights, heaviest first: the order scores are added up in."""
        counts = Counter(tokens)
        weights = self._idf(list(counts), counted).tolist()
        known = [
            (self._vocabulary[token], weight * count)
            for (token, count), weight in zip(counts.items(), weights, strict=True)
            if token in self._vocabulary
        ]
        return sorted(known, key=lambda item: (-item[1], item[0]))

    def _still_close(self, scores: Floats, mask: Mask | None, k: int, bound: float) -> NDArray[np.int64] | None:
        """Return the few slots that can still become one of the k best.

        Rare terms come first. Once the k-th best score so far is higher than all that the remaining terms can add up
        to, only passages near it matter, and looking these up beats adding up long lists (the idea of MaxScore, Turtle
        and Flood, 1995; the result is the same).

        Args:
            scores: Of every slot, so far.
            mask: Slots that may be returned.
            k: How many are wanted.
            bound: The most that the remaining terms can add to a score.

        Returns:
            None where there are too many.
        """
        seen = np.flatnonzero(scores > 0 if mask is None else (scores > 0) & mask)
        if len(seen) < k:
            return None
        found = scores[seen]
        floor = np.partition(found, len(found) - k)[len(found) - k] - bound - 1e-4 * (1 + bound)
        if floor <= 0:
            return None
        close = seen[found >= floor]
        return close if len(close) < 0.05 * len(scores) else None

    def _gain(self, term: int, weight: float, slots: NDArray[np.int64], norms: Floats) -> Floats:
        known = self._dense.get(term, _NOTHING)
        dense = len(known) == self._map.slot_count
        frequencies = known[slots] if dense else self._postings.frequency(term, slots)
        gain: Floats = np.float32(weight) * (frequencies / (frequencies + norms[slots]))
        return gain

    def _is_frequent(self, term: int) -> bool:
        return bool(self._document_frequency.view()[term] > DENSE_SHARE * self._map.slot_count)

    def _dense_frequencies(self, term: int) -> Floats:
        """Return how often a frequent term stands in each slot; adding up such arrays is faster than lists of slots."""
        known = self._dense.get(term, _NOTHING)
        if len(known) < self._map.slot_count:  # slots are only ever added (or all are made anew)
            slots, frequencies = self._postings.of(term)
            first = int(np.searchsorted(slots, np.int32(len(known))))
            dense = np.zeros(self._map.slot_count, dtype=np.float32)
            dense[: len(known)] = known
            dense[slots[first:]] = frequencies[first:]
            known = dense
            if len(self._dense) >= DENSE_TERMS:
                self._dense = {}
            self._dense[term] = dense
        return known

    def _best(self, slots: NDArray[np.int64], scores: Floats, k: int) -> tuple[Rows, Floats]:
        """Return the rows of the k best among some slots, given the scores of all slots."""
        scores = scores[slots]
        if len(slots) > k:
            kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            slots, scores = slots[kept], scores[kept]
        rows = self._map.rows[slots]
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]
