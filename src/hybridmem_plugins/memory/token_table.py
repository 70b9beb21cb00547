"""The tokens of every passage, in their order: which passages have a token, how many, and where a phrase stands."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.phrases import phrase_in, phrase_in_all, phrases_in_all, token_positions
from hybridmem_plugins.memory.postings import Ints, Postings, sorted_unique
from hybridmem_plugins.memory.rows import Buffer, Mask, RowMap, Rows, as_rows

# Tokens that can be looked through in the time that it takes to find one phrase.
_PHRASE_COST = 40_000


class TokenTable:
    """Token lists by row, as numbers, with the inverted lists of their terms.

    Not safe for changing in one thread while another reads; `MemoryStore` holds the lock.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._map = RowMap()
        self._vocabulary: defaultdict[str, int] = defaultdict()
        self._vocabulary.default_factory = self._vocabulary.__len__
        self._terms = Buffer(object)  # spelling of each term
        self._document_frequency = Buffer(np.int32)
        self._tokens = Buffer(np.int32)
        self._starts = Buffer(np.int64)
        self._lengths = Buffer(np.int32)
        self._token_count = 0
        self._postings = Postings()

    def __len__(self) -> int:
        return len(self._map)

    def add(self, rows: Sequence[int] | Rows, token_lists: Sequence[Sequence[str]]) -> None:
        """Store the tokens of new rows.

        Raises:
            ValueError: The counts differ, or a row was used before.
        """
        labels = as_rows(rows)
        if len(labels) != len(token_lists):
            msg = f"{len(labels)} rows but {len(token_lists)} token lists"
            raise ValueError(msg)
        slots = self._map.add(labels)
        number = self._vocabulary.__getitem__
        known = len(self._vocabulary)
        flat: list[int] = []
        lengths: list[int] = []
        for tokens in token_lists:
            flat.extend(map(number, tokens))
            lengths.append(len(tokens))
        if len(self._vocabulary) > known:
            self._terms.extend(np.array(self._newest_terms(known), dtype=object))
            self._document_frequency.extend(np.zeros(len(self._vocabulary) - known, dtype=np.int32))
        terms = np.array(flat, dtype=np.int32)
        sizes = np.array(lengths, dtype=np.int32)
        self._starts.extend(self._tokens.size + np.cumsum(sizes, dtype=np.int64) - sizes)
        self._lengths.extend(sizes)
        self._tokens.extend(terms)
        self._token_count += len(terms)
        found = self._postings.add(terms, np.repeat(slots.astype(np.int32), sizes), self._terms.size)
        self._document_frequency.view()[:] += np.bincount(found, minlength=self._terms.size).astype(np.int32)

    def remove(self, rows: Sequence[int] | Rows) -> None:
        """Forget rows; unknown ones are ignored."""
        slots = self._map.remove(as_rows(rows))
        if not len(slots):
            return
        self._token_count -= int(self._lengths.view()[slots].sum())
        starts, lengths = self._starts.view()[slots], self._lengths.view()[slots]
        terms = self._tokens.view()[token_positions(starts, lengths)].astype(np.int64)
        size = max(1, self._terms.size)
        pairs, _ = sorted_unique(np.repeat(np.arange(len(slots)), lengths) * size + terms)
        np.subtract.at(self._document_frequency.view(), pairs % size, 1)
        if self._map.dead_count > max(1024, self._map.slot_count // 4):
            self.compact()

    def compact(self) -> None:
        """Drop every trace of removed rows. Term ids change."""
        live = self._map.live.copy()
        lengths, starts = self._lengths.view(), self._starts.view()
        new_slot = np.where(live, np.cumsum(live) - 1, -1).astype(np.int32)
        used = self._document_frequency.view() > 0
        new_term = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
        kept_tokens = np.repeat(live, lengths)
        tokens = new_term[self._tokens.view()[token_positions(starts, lengths)][kept_tokens]]
        self._postings.keep(new_slot, new_term, int(used.sum()))
        self._map.compact()
        self._set_vocabulary(self._terms.view()[used].tolist())
        self._document_frequency.replace(self._document_frequency.view()[used])
        sizes = lengths[live]
        self._tokens.replace(tokens)
        self._lengths.replace(sizes)
        self._starts.replace(np.cumsum(sizes, dtype=np.int64) - sizes)

    def document_frequency(self, tokens: Sequence[str]) -> NDArray[np.int64]:
        """Return in how many rows each token occurs."""
        terms = self.term_ids(tokens)
        counts = np.zeros(len(terms), dtype=np.int64)
        known = terms >= 0
        counts[known] = self._document_frequency.view()[terms[known]]
        return counts

    def term_ids(self, tokens: Iterable[str]) -> Ints:
        """Return the number of each token, -1 for unseen ones. Numbers hold until the index changes."""
        return np.array([self._vocabulary.get(token, -1) for token in tokens], dtype=np.int32)

    def term(self, term_id: int) -> str:
        """Return the token with a number."""
        return str(self._terms.view()[term_id])

    def tokens(self, row: int) -> Ints:
        """Return the term ids of a row's tokens, in their order.

        Raises:
            KeyError: The row is not in the index.
        """
        slot = int(self._map.held([row])[0])
        start = int(self._starts.view()[slot])
        view: Ints = self._tokens.view()[start : start + int(self._lengths.view()[slot])]
        return view

    def words(self, rows: Sequence[int] | Rows) -> list[list[str]]:
        """Return the tokens of each row, in their order.

        Raises:
            KeyError: A row is not in the index.
        """
        slots = self._map.held(rows)
        starts, lengths = self._starts.view()[slots], self._lengths.view()[slots]
        flat: list[str] = self._terms.view()[self._tokens.view()[token_positions(starts, lengths)]].tolist()
        ends = np.cumsum(lengths, dtype=np.int64)
        return [flat[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]

    def rows(self) -> Rows:
        """Return all rows, in the order of adding."""
        return self._map.live_rows()

    def has(self, rows: Sequence[int] | Rows) -> Mask:
        """Return for each row whether it is in the index."""
        return self._map.slots(as_rows(rows)) >= 0

    def rows_with_phrase(self, tokens: Sequence[str], allowed: Mask | None = None) -> Rows:
        """Return the rows, ascending, in which the tokens stand one after another.

        Args:
            tokens: At least one token.
            allowed: Mask over rows; None allows all.
        """
        terms = self.term_ids(tokens)
        if not len(terms) or (terms < 0).any():
            return np.empty(0, dtype=np.int64)
        lists = sorted((self._postings.of(term)[0] for term in set(terms.tolist())), key=len)
        slots = lists[0][self._map.allowed_slots(allowed)[lists[0]]]
        for other in lists[1:]:
            positions = np.minimum(np.searchsorted(other, slots), len(other) - 1)
            slots = slots[other[positions] == slots]
        if len(terms) > 1 and len(slots):
            # Gathering the tokens of many passages costs more than looking through all of them.
            many = 16 * int(self._lengths.view()[slots].sum()) > self._tokens.size
            sequences = (self._tokens.view(), self._starts.view(), self._lengths.view())
            if many:
                rarest = int(np.argmin(self._document_frequency.view()[terms]))
                slots = slots[phrase_in_all(*sequences, terms, rarest)[slots]]
            else:
                slots = slots[phrase_in(*sequences, slots, terms)]
        rows: Rows = np.sort(self._map.rows[slots])
        return rows

    def rows_with_phrases(self, phrases: Sequence[Sequence[str]]) -> list[Rows]:
        """Return for each of many phrases what `rows_with_phrase` does; together they take much less time.

        Args:
            phrases: Runs of tokens, each of at least one.
        """
        if len(phrases) * _PHRASE_COST < self._tokens.size:
            return [self.rows_with_phrase(phrase) for phrase in phrases]
        number = self._vocabulary.get
        terms = [[number(token, -1) for token in phrase] for phrase in phrases]
        which, slots = phrases_in_all(self._tokens.view(), self._starts.view(), self._lengths.view(), terms)
        live = self._map.live[slots]
        which, rows = which[live], self._map.rows[slots[live]]
        order = np.lexsort((rows, which))
        which, rows = which[order], rows[order]
        found = [np.empty(0, dtype=np.int64)] * len(phrases)
        held, first = np.unique(which, return_index=True)
        for phrase, part in zip(held.tolist(), np.split(rows, first[1:]), strict=False):  # of nothing, one part is left
            found[phrase] = part
        return found

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """Return all of it, for `_restore`."""
        postings = self._postings.merged(self._terms.size)
        return {
            "rows": self._map.rows, "live": self._map.live, "document_frequency": self._document_frequency.view(),
            "tokens": self._tokens.view(), "starts": self._starts.view(), "lengths": self._lengths.view(),
            "posting_starts": postings.starts, "posting_slots": postings.slots,
            "posting_frequencies": postings.frequencies,
            "terms": np.frombuffer(json.dumps(self._terms.view().tolist()).encode("ascii"), dtype=np.uint8),
        }  # fmt: skip

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the content by what `_arrays` gave.

        Raises:
            KeyError, ValueError, IndexError: Something is missing or damaged.
        """
        self.clear()
        rows, live = arrays["rows"], arrays["live"]
        self._map.add(rows)
        self._map.remove(rows[~live])
        self._set_vocabulary(json.loads(arrays["terms"].tobytes()))
        self._document_frequency.replace(arrays["document_frequency"])
        self._tokens.replace(arrays["tokens"])
        self._starts.replace(arrays["starts"])
        self._lengths.replace(arrays["lengths"])
        self._token_count = int(self._lengths.view()[live].sum())
        self._postings.starts = arrays["posting_starts"]
        self._postings.slots = arrays["posting_slots"]
        self._postings.frequencies = arrays["posting_frequencies"]

    def _newest_terms(self, known: int) -> list[str]:
        newest = list(islice(reversed(self._vocabulary), len(self._vocabulary) - known))
        return newest[::-1]

    def _set_vocabulary(self, terms: list[str]) -> None:
        self._terms.replace(np.array(terms, dtype=object))
        self._vocabulary = defaultdict(None, zip(terms, range(len(terms)), strict=True))
        self._vocabulary.default_factory = self._vocabulary.__len__
