"""The noise slider: retrieved passages become as broken as a level says, with every edit known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.edits import COPY_MARK
from hybridmem_plugins.augmentation.marks import Piece, marked
from hybridmem_plugins.augmentation.recipe import DEFAULT_RATES
from hybridmem_plugins.passage import Passage

MOST_STRAYS = 4
"""Wrong passages among the retrieved ones at level 1."""

RATE_AT_FULL = 3.0
"""How many times its default chance an operator has at level 1."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A broken context.

    Attributes:
        passages: What the model reads in place of what was retrieved.
        pieces: The text of each, cut into runs that say which operator wrote them.
        strays: For each, whether it was not retrieved for the question.
        operators: Names of the operators that changed something, sorted.
    """

    passages: tuple[Passage, ...]
    pieces: tuple[tuple[Piece, ...], ...]
    strays: tuple[bool, ...]
    operators: tuple[str, ...]


def break_context(
    question: str, retrieved: Sequence[Passage], strays: Sequence[Passage], level: float, seed: int = 0
) -> Broken:
    """Break what was retrieved for a question.

    With the level rise the number of wrong passages, the chance of every operator of the noise catalogue and the share
    of a text that each changes. Nothing is looked up or thrown away on purpose: it is the stress test of
    `NoisyContextAugmenter.noise_context`, so the answer may or may not survive.

    Args:
        question: With the seed, decides on the noise.
        retrieved: The right passages, best first; they need ids.
        strays: Wrong passages to mix in, the first ones first.
        level: 0 (as retrieved) to 1.
        seed: Another seed, another damage.

    Raises:
        ValueError: The level is outside [0, 1].

    >>> broken = break_context("Who?", [Passage("It was Ada.", id="1")], [], level=0.0)
    >>> broken.passages[0].text, broken.operators
    ('It was Ada.', ())
    """
    if not 0 <= level <= 1:
        msg = f"the level of noise must be from 0 to 1, not {level}"
        raise ValueError(msg)
    known = {passage.id for passage in retrieved}
    added = [passage for passage in strays if passage.id not in known][: round(level * MOST_STRAYS)]
    clean = [*retrieved, *added]
    augmenter = NoisyContextAugmenter(
        seed=seed,
        rates={name: min(1.0, rate * level * RATE_AT_FULL) for name, rate in DEFAULT_RATES.items()},
        severity=level,
        mix={"noisy": 1.0},
    )
    noisy, edits = augmenter.noise_context(clean, question)
    by_id = {str(passage.id): passage for passage in clean}
    row = {
        "clean": [
            {"text": one.text, "title": one.title, "id": one.id, "metadata": dict(one.metadata)} for one in clean
        ],
        "edits": [edit.as_dict() for edit in edits],
    }
    strangers = {str(passage.id) for passage in added}
    return Broken(
        tuple(noisy),
        tuple(tuple(pieces) for pieces in marked(row, by_id.__getitem__)),
        tuple(str(passage.id).partition(COPY_MARK)[0] in strangers for passage in noisy),
        tuple(sorted({edit.operator for edit in edits})),
    )
