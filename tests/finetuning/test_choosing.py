"""Weights of readings are found again from choices that were made with them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from hybridmem_plugins.finetuning.choosing import ReadQuestion, fit_weights
from hybridmem_plugins.generation.settling import Reading, settle
from hybridmem_plugins.passage import Passage


def made(count: int) -> list[ReadQuestion]:
    """Questions whose right reading has a low refusal and a likely question; every fourth has none."""
    rng, questions = random.Random(0), []
    for number in range(count):
        gold = None if number % 4 == 0 else rng.randrange(3)
        readings = [
            Reading(
                f"[1] {place if place != gold else 'gold'}",
                refusal=rng.gauss(-4.0 if place == gold else 0.0, 1.5),
                answer=rng.gauss(-1.0, 0.5),
                question=rng.gauss(-2.0 if place == gold else -3.0, 0.5),
            )
            for place in range(3)
        ]
        unread = Reading("", 0.0, 0.0, -3.0)
        questions.append(ReadQuestion(unread, readings, [place == gold for place in range(3)], gold is not None))
    return questions


def test_right_readings_are_chosen_and_few_questions_declined() -> None:
    weights = fit_weights(made(300))
    assert weights.refusal > 0
    assert weights.question > 0
    passages = [Passage(str(place)) for place in range(3)]
    fresh = made(400)[300:]
    chosen = [settle(passages, [], [one.unread, *one.readings], weights) for one in fresh]
    answered = [choice.passage for choice, one in zip(chosen, fresh, strict=True) if one.answerable]
    golds = [one.right.index(True) for one in fresh if one.answerable]
    assert sum(a == g for a, g in zip(answered, golds, strict=True)) / len(golds) > 0.85
    assert sum(a is None for a in answered) / len(golds) < 0.15
    assert sum(c.passage is None for c, one in zip(chosen, fresh, strict=True) if not one.answerable) / 25 > 0.6


def test_eagerness_moves_the_bias_alone() -> None:
    plain, eager = fit_weights(made(60), eagerness=0.0), fit_weights(made(60), eagerness=0.7)
    assert eager == replace(plain, bias=plain.bias + 0.7)


def test_nothing_to_learn_from_is_refused() -> None:
    answerable = [one for one in made(20) if one.answerable]
    with pytest.raises(ValueError, match="without an answer"):
        fit_weights(answerable)
