"""Choose among what single passages were read to say.

A conditional logit weighs how sure each answer is; answers that say the same, in whatever form, add up, and one has
to be surer than abstaining by what its passage alone says: what many passages are unsure of stays unsure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import ABSTENTION, read_reply
from hybridmem_plugins.generation.forms import form_words, is_numeric_date, is_within
from hybridmem_plugins.generation.verifying import Candidate
from hybridmem_plugins.passage import Passage

FULLER, FULLER_SHARE = 4, 0.5
"""Most words that a fuller form of an answer may have besides, and how likely one of the same passage must be beside
it, as a share."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model makes of one context, when it has to try.

    Attributes:
        text: The reply; abstaining was ruled out.
        refusal: How much likelier than any other first token that of an abstention was, in nats.
        answer: Natural log-probability of the reply.
        question: Mean natural log-probability of the question's tokens after the context: how much the context leads
            one to ask it; 0 where it is not known.
        input_tokens: Of the prompt.
        output_tokens: Generated.
        finish_reason: `"stop"` or `"length"`.
        candidates: Where a verifier was asked, the answers of the context, the likeliest first; else empty.
    """

    text: str
    refusal: float
    answer: float
    question: float
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = "stop"
    candidates: tuple[Candidate, ...] = ()

    @property
    def likeliest(self) -> Candidate:
        """The reply as a candidate."""
        return self.candidates[0] if self.candidates else Candidate(self.text, self.answer)


def answers_of(readings: Sequence[Reading]) -> list[list[Candidate]]:
    """Return the answers of each reading to choose among: the verified ones, or the likeliest where none is."""
    verified = any(reading.candidates for reading in readings)
    return [list(reading.candidates) if verified else [reading.likeliest] for reading in readings]


@dataclass(frozen=True, slots=True)
class ReadingWeights:
    """How sure a reading is, in nats against abstaining; fitted for an adapter by `finetuning.choosing.fit_weights`.

    Attributes:
        refusal: Weight of `Reading.refusal`, turned round.
        answer: Weight of `Reading.answer`.
        question: Weight of `Reading.question`.
        unread: Weight of `Reading.question` where nothing is read, which says how usual the question itself is.
        bias: Added; lower declines more often.
        verdict: Weight of `Candidate.verdict`.
    """

    refusal: float
    answer: float
    question: float
    unread: float
    bias: float
    verdict: float = 0.0

    def score(self, reading: Reading, unread: Reading, candidate: Candidate | None = None) -> float:
        """Return how much surer than of abstaining one may be of an answer, in nats.

        Args:
            reading: Of a passage.
            unread: Of no passage, for the same question.
            candidate: One of the reading's answers; None is the likeliest.
        """
        candidate = candidate or reading.likeliest
        told = self.answer * candidate.answer + self.verdict * candidate.verdict - self.refusal * reading.refusal
        return told + self.question * reading.question + self.unread * unread.question + self.bias


@dataclass(frozen=True, slots=True)
class Choice:
    """What was settled on.

    Attributes:
        text: The reply in the adapter's form, `[2] 1843`, or the canonical abstention.
        passage: Index of the passage that is answered from, or None.
        confidence: Probability of the answer, or of there being none.
        finish_reason: Of the reading whose reply it is; `"stop"` for an abstention, which is whole.
    """

    text: str
    passage: int | None
    confidence: float
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class Lead:
    """The sentence by which one passage leads to another.

    Attributes:
        source: Index of the passage that it stands in.
        target: Index of the passage whose title it says.
        sentence: The sentence under its passage's title.
    """

    source: int
    target: int
    sentence: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer with its passage, its odds against abstaining, and its words."""

    passage: int
    text: str
    odds: float
    words: frozenset[str]
    finish_reason: str


def settle(
    passages: Sequence[Passage],
    leads: Sequence[Lead],
    readings: Sequence[Reading],
    weights: ReadingWeights,
    caution: float = 0.0,
) -> Choice:
    """Choose among the readings of `contexts_of`.

    Where no passage by itself is surer of an answer than of abstaining, there is none. Answers that say the same, in
    whatever form of `forms` and one perhaps more fully ("2015" and "Dec. 2015"), add up their odds, and the fullest
    form is given, as most passages spell it: from another passage if it is surer than abstaining, from the same one if
    it is half as likely at least. Under a lead counts only what its passage itself says: what the lead says is its own
    passage's to answer. A reply that only gives the passage's name has taken the lead for the answer, and what the
    passage says without it stands in.

    Args:
        passages: What was retrieved.
        leads: From `find_leads`.
        readings: Of the contexts, in their order.
        weights: How sure each answer is.
        caution: Nats added to abstaining.
    """
    answers = _answers(passages, leads, readings, weights, caution)
    total = 1.0 + sum(one.odds for one in answers)
    if max((_support(one, _of(one.passage, answers)) for one in answers), default=0.0) < 1.0:
        return Choice(ABSTENTION, None, 1.0 / total)
    best = max(answers, key=lambda one: (_support(one, answers), one.odds, -one.passage))
    given = _spelling(_fullest(best, answers), answers)
    return Choice(
        f"[{given.passage + 1}] {given.text}", given.passage, _support(best, answers) / total, given.finish_reason
    )


def _of(passage: int, answers: Sequence[_Answer]) -> list[_Answer]:
    return [one for one in answers if one.passage == passage]


def _support(one: _Answer, answers: Sequence[_Answer]) -> float:
    """Return the odds of all answers that say the same, one perhaps more fully."""
    return sum(
        other.odds
        for other in answers
        if one.words == other.words or is_within(one.words, other.words) or is_within(other.words, one.words)
    )


def _fullest(best: _Answer, answers: Sequence[_Answer]) -> _Answer:
    """Return the answer that says the same more fully and has the most support, or the best itself."""
    fuller = [
        one
        for one in answers
        if is_within(best.words, one.words)
        and not is_within(one.words, best.words)
        and len(one.words) <= len(best.words) + FULLER
        and one.odds > (FULLER_SHARE * best.odds if one.passage == best.passage else 1.0)
        and not (is_numeric_date(one.text) and not is_numeric_date(best.text))
    ]
    return max(fuller, key=lambda one: (_support(one, answers), one.odds, -one.passage), default=best)


def _spelling(given: _Answer, answers: Sequence[_Answer]) -> _Answer:
    """Return the answer as most passages spell it."""
    same = [one for one in answers if is_within(one.words, given.words) and is_within(given.words, one.words)]
    passages = defaultdict[str, set[int]](set)
    for one in same:
        passages[normalise_answer(one.text)].add(one.passage)

    def common(one: _Answer) -> tuple[int, bool, float, int]:
        return len(passages[normalise_answer(one.text)]), one is given, one.odds, -one.passage

    return max(same, key=common, default=given)


def _answers(
    passages: Sequence[Passage],
    leads: Sequence[Lead],
    readings: Sequence[Reading],
    weights: ReadingWeights,
    caution: float,
) -> list[_Answer]:
    """Return the distinct answers of each passage, each as sure as its surest reading makes it."""
    unread, *read = readings
    found: dict[tuple[int, str], _Answer] = {}
    for place, (reading, candidates) in enumerate(zip(read, answers_of(read), strict=True)):
        at = place if place < len(passages) else leads[place - len(passages)].target
        for candidate in candidates:
            score, told = weights.score(reading, unread, candidate) - caution, candidate
            if place >= len(passages):
                reply = normalise_answer(read_reply(candidate.text).answer)
                if reply and reply == normalise_answer(passages[at].title or ""):
                    told, reading = read[at].likeliest, read[at]
                elif reply not in ("yes", "no") and not contains_answer(passages[at].text, [reply]):
                    continue
            text = read_reply(told.text).answer
            key, odds = (at, normalise_answer(text)), math.exp(min(score, 500.0))
            if text and (key not in found or odds > found[key].odds):
                found[key] = _Answer(at, text, odds, form_words(text), reading.finish_reason)
    return list(found.values())
