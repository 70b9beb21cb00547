"""Scores of answers and of differences between models, with their uncertainty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import read_reply


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How good one reply is.

    Attributes:
        contained: A gold answer occurs in the reply, on token boundaries; where the reply quotes a sentence before it
            answers, in the answer alone.
        quoted: A gold answer occurs anywhere in the reply, the quoted sentence included.
        exact: The normalised reply is a gold answer.
        f1: Token overlap with the best gold answer, in [0, 1] (SQuAD's).
        abstained: The reply declines to answer.
    """

    contained: bool
    quoted: bool
    exact: bool
    f1: float
    abstained: bool


def score_answer(reply: str, answers: Sequence[str]) -> AnswerScore:
    """Score a reply against gold answers, any of which is right.

    >>> score_answer("It was Ada Lovelace.", ["Ada Lovelace"]).contained
    True
    """
    said = read_reply(reply)
    words = normalise_answer(said.answer)
    golds = [normalise_answer(answer) for answer in answers]
    return AnswerScore(
        contained=contains_answer(said.answer, answers),
        quoted=contains_answer(reply, answers),
        exact=words in golds,
        f1=max((_f1(words.split(), gold.split()) for gold in golds), default=0.0),
        abstained=said.abstained,
    )


def _f1(reply: list[str], gold: list[str]) -> float:
    common = sum((Counter(reply) & Counter(gold)).values())
    return 2.0 * common / (len(reply) + len(gold)) if common else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as `0.612 [0.580, 0.645]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[Sequence[float]] | Sequence[float], seed: int = 0, draws: int = 2000) -> Interval:
    """Return the mean with its 95% percentile interval from resampled questions (and seeds).

    Args:
        values: One value per question, or one row of them per training seed. With several seeds, seeds and questions
            are both drawn with replacement, so that the interval covers both.
        seed: Seed of the resampling.
        draws: Number of resamples.

    Raises:
        ValueError: There are no values.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    if table.size == 0:
        msg = "No values to average."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    seeds, questions = table.shape
    means = np.empty(draws)
    for draw in range(draws):
        per_seed = table[rng.integers(seeds, size=seeds)] if seeds > 1 else table
        means[draw] = per_seed[:, rng.integers(questions, size=questions)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))


def paired_difference(
    ours: Sequence[Sequence[float]] | Sequence[float], other: Sequence[Sequence[float]] | Sequence[float], seed: int = 0
) -> Interval:
    """Return the mean difference ours minus other over the same questions, with its paired bootstrap interval.

    Args:
        ours: One value per question, or one row per seed.
        other: Likewise; a single row is compared with each of ours, several are averaged first.
        seed: Seed of the resampling.

    Raises:
        ValueError: The two have different numbers of questions.
    """
    first = np.atleast_2d(np.asarray(ours, dtype=float))
    second = np.atleast_2d(np.asarray(other, dtype=float))
    if first.shape[1] != second.shape[1]:
        msg = f"Paired scores need the same questions: {first.shape[1]} against {second.shape[1]}."
        raise ValueError(msg)
    return bootstrap((first - second.mean(axis=0, keepdims=True)).tolist(), seed)
