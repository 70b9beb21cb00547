"""Runs of terms in token sequences that lie one after another in a flat array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.memory.postings import Ints, sorted_unique
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
    """Return how often each of some distinct terms stands in each of some sequences, shape `(sequences, terms)`.

    >>> count_terms(np.array([4, 5, 4, 9]), np.array([0, 3]), np.array([3, 1]), np.array([4, 9])).tolist()
    [[2, 0], [0, 1]]
    """
    read = tokens.take(token_positions(starts, lengths))
    column_of = np.full(int(max(read.max(initial=0), terms.max(initial=0))) + 1, -1, dtype=np.int32)
    column_of[terms] = np.arange(len(terms))
    columns = column_of.take(read)
    places = np.flatnonzero(columns >= 0)
    owners = np.searchsorted(np.cumsum(lengths), places, side="right")
    counts = np.bincount(owners * len(terms) + columns[places], minlength=len(starts) * len(terms))
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
    tokens: Ints, starts: NDArray[np.int64], lengths: Ints, phrases: Sequence[Sequence[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which sequences hold which of many runs of terms, looking through all tokens once.

    Args:
        tokens: Term of each token of all sequences.
        starts: Where each sequence starts, ascending.
        lengths: Tokens of each sequence.
        phrases: The runs; one with a negative term is nowhere.

    Returns:
        The number of a run and of a sequence that holds it, each pair once, in order.

    >>> runs, slots = phrases_in_all(np.array([4, 5, 4, 9]), np.array([0, 3]), np.array([3, 1]), [[5, 4], [4]])
    >>> runs.tolist(), slots.tolist()
    ([0, 1], [0, 0])
    """
    known = [number for number, phrase in enumerate(phrases) if len(phrase) and min(phrase) >= 0]
    if not known or not len(tokens):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    sizes = np.array([len(phrases[number]) for number in known])
    terms = np.full((len(known), int(sizes.max())), -1, dtype=np.int64)
    terms[np.arange(terms.shape[1]) < sizes[:, None]] = [term for number in known for term in phrases[number]]
    which, at = _places(tokens, terms, sizes)
    slots = np.searchsorted(starts, at, side="right") - 1
    inside = at + sizes[which] <= starts[slots] + lengths[slots]
    pairs, _ = sorted_unique(which[inside] * len(starts) + slots[inside])
    which, slots = np.divmod(pairs, len(starts))
    return np.array(known)[which], slots


def _places(
    tokens: Ints, terms: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which runs stand where in the tokens, also over the ends of sequences.

    The runs make a tree, in which those that begin alike share a way: a place is compared once a step, and not with
    each of the thousand runs that begin "heading number".

    Args:
        tokens: Where to look.
        terms: The runs, one a line.
        sizes: Terms of each line; what follows them is not looked at.
    """
    vocabulary = int(max(tokens.max(), terms.max())) + 1
    branch = np.zeros(len(terms), dtype=np.int64)  # of each run, at this step
    at, reached = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)  # places, and the branch of each
    found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for step in range(terms.shape[1]):
        going = np.flatnonzero(sizes > step)
        wanted = np.zeros(vocabulary, dtype=np.bool_)
        wanted[terms[going, step]] = True
        if step == 0:
            at = np.flatnonzero(wanted[tokens])
            reached = np.zeros(len(at), dtype=np.int64)
        else:
            likely = wanted[tokens.take(at + step, mode="clip")]
            at, reached = at[likely], reached[likely]
        branches, branch[going] = np.unique(branch[going] * vocabulary + terms[going, step], return_inverse=True)
        keys = reached * vocabulary + tokens.take(at + step, mode="clip")
        place = np.searchsorted(branches, keys)
        same = branches.take(place, mode="clip") == keys
        at, reached = at[same], place[same]
        ending = going[sizes[going] == step + 1]
        ending = ending[np.argsort(branch[ending], kind="stable")]
        start = np.searchsorted(branch[ending], reached)
        count = np.searchsorted(branch[ending], reached, side="right") - start
        found.append((ending[token_positions(start, count)], np.repeat(at, count)))
    which, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return which, places
