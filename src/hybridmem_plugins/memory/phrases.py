"""Runs of terms in token sequences that lie one after another in a flat array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.postings import Ints
from hybridmem_plugins.memory.rows import Mask


def token_positions(starts: NDArray[np.int64], lengths: Ints) -> NDArray[np.int64]:
    """Return the positions of the tokens of some sequences, one sequence after another.

    >>> token_positions(np.array([7, 2]), np.array([2, 3])).tolist()
    [7, 8, 2, 3, 4]
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    positions: NDArray[np.int64] = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
    return positions


def count_terms(tokens: Ints, starts: NDArray[np.int64], lengths: Ints, terms: Ints) -> NDArray[np.int64]:
    """Return how often each term stands in each of some sequences, shape `(sequences, terms)`.

    >>> count_terms(np.array([4, 5, 4, 9]), np.array([0, 3]), np.array([3, 1]), np.array([4, 9])).tolist()
    [[2, 0], [0, 1]]
    """
    read = tokens[token_positions(starts, lengths)]
    wanted = np.zeros(int(max(read.max(initial=0), terms.max(initial=0))) + 1, dtype=np.bool_)
    wanted[terms] = True
    places = np.flatnonzero(wanted[read])
    found, columns = (read[places][:, None] == terms).nonzero()
    owners = np.repeat(np.arange(len(starts)), lengths)[places[found]]
    counts = np.bincount(owners * len(terms) + columns, minlength=len(starts) * len(terms))
    return counts.reshape(len(starts), len(terms))


def phrase_in(tokens: Ints, starts: NDArray[np.int64], lengths: Ints, slots: NDArray[np.integer], terms: Ints) -> Mask:
    """Return which of the given sequences hold a run of terms.

    Args:
        tokens: Term of each token of all sequences.
        starts: Where each sequence starts.
        lengths: Tokens of each sequence.
        slots: Which sequences to look into.
        terms: The run.

    Returns:
        Shape `(len(slots),)`.
    """
    chosen, sizes = starts[slots], lengths[slots]
    positions = token_positions(chosen, sizes)
    owners = np.repeat(np.arange(len(slots)), sizes)
    ends = (chosen + sizes)[owners]
    for offset, term in enumerate(terms.tolist()):
        inside = positions + offset < ends
        positions, owners, ends = positions[inside], owners[inside], ends[inside]
        hits = tokens[positions + offset] == term
        positions, owners, ends = positions[hits], owners[hits], ends[hits]
    mask = np.zeros(len(slots), dtype=np.bool_)
    mask[owners] = True
    return mask


def phrase_in_all(tokens: Ints, starts: NDArray[np.int64], lengths: Ints, terms: Ints, rarest: int) -> Mask:
    """Return for every sequence whether it holds a run of terms, looking through all tokens.

    Args:
        tokens: Term of each token of all sequences.
        starts: Where each sequence starts, ascending.
        lengths: Tokens of each sequence.
        terms: The run.
        rarest: Which of the terms to look for first.

    Returns:
        Shape `(len(starts),)`.
    """
    found = np.flatnonzero(tokens == terms[rarest]) - rarest
    found = found[(found >= 0) & (found + len(terms) <= len(tokens))]
    for offset, term in enumerate(terms.tolist()):
        found = found[tokens[found + offset] == term]
    slots = np.searchsorted(starts, found, side="right") - 1
    inside = found + len(terms) <= starts[slots] + lengths[slots]
    mask = np.zeros(len(starts), dtype=np.bool_)
    mask[slots[inside]] = True
    return mask


def phrases_in_all(
    tokens: Ints, starts: NDArray[np.int64], lengths: Ints, phrases: Sequence[Ints]
) -> list[NDArray[np.int64]]:
    """Return for each of many runs of terms the sequences that hold it, looking through all tokens once.

    Args:
        tokens: Term of each token of all sequences.
        starts: Where each sequence starts, ascending.
        lengths: Tokens of each sequence.
        phrases: The runs; one with a negative term is nowhere.

    >>> found = phrases_in_all(np.array([4, 5, 4, 9]), np.array([0, 3]), np.array([3, 1]), [np.array([5, 4])])
    >>> found[0].tolist()
    [0]
    """
    nowhere = np.empty(0, dtype=np.int64)
    found = [nowhere] * len(phrases)
    known = [number for number, phrase in enumerate(phrases) if len(phrase) and (phrase >= 0).all()]
    if not known or not len(tokens):
        return found
    # The first two terms of each run; runs of one term are given the second -1.
    size = int(tokens.max()) + 1
    heads = np.array([(phrases[n][0], phrases[n][1] if len(phrases[n]) > 1 else -1) for n in known], dtype=np.int64)
    opening = np.zeros(size, dtype=np.bool_)
    opening[heads[heads[:, 0] < size, 0]] = True
    places = np.flatnonzero(opening[tokens])
    following = np.append(tokens, -1)[places + 1]
    by_pair = _groups(tokens[places] * np.int64(size + 1) + following + 1, places)
    by_term = _groups(tokens[places].astype(np.int64), places)
    for number, (first, second) in zip(known, heads.tolist(), strict=True):
        phrase = phrases[number]
        at = by_term(first) if second < 0 else by_pair(first * (size + 1) + second + 1)
        at = at[at + len(phrase) <= len(tokens)]
        for offset, term in enumerate(phrase.tolist()[2:], 2):
            at = at[tokens[at + offset] == term]
        slots = np.searchsorted(starts, at, side="right") - 1
        found[number] = np.unique(slots[at + len(phrase) <= starts[slots] + lengths[slots]])
    return found


def _groups(keys: NDArray[np.int64], places: NDArray[np.int64]) -> Callable[[int], NDArray[np.int64]]:
    """Return what gives the places of a key."""
    order = np.argsort(keys, kind="stable")
    ordered, sorted_places = keys[order], places[order]
    return lambda key: sorted_places[slice(*np.searchsorted(ordered, [key, key + 1]).tolist())]
