"""Read each passage alone with the question, and answer from the one that the model is surest about.

Passages read together disturb each other, the more the smaller the model is. Read alone, none can, and what one passage
orders does not reach the reading of another (isolate, then aggregate: arXiv 2405.15556). A passage that others name is
also read under the sentence that names it best: that is how the second passage of a question in two steps comes to
look like an answer to it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer, words_around
from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template, read_reply, said_about
from hybridmem_plugins.extraction.sentences import sentence_spans
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.decoding import GenerationSettings, Row
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.generation.local_model import Generation, LocalModel

FULLER = 4
"""Most words that a fuller form of an answer may have besides."""

MOST_QUOTED = 25
"""Words of evidence that are quoted; a longer sentence is cut to those around the answer."""

LEAST_LEAD = 3
"""Letters that a title needs before a sentence that says it is taken to name its passage."""


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
    """

    text: str
    refusal: float
    answer: float
    question: float
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = "stop"


@dataclass(frozen=True, slots=True)
class ReadingWeights:
    """How sure a reading is, in nats against abstaining; fitted for an adapter by `finetuning.choosing.fit_weights`.

    Attributes:
        refusal: Weight of `Reading.refusal`, turned round.
        answer: Weight of `Reading.answer`.
        question: Weight of `Reading.question`.
        unread: Weight of `Reading.question` where nothing is read, which says how usual the question itself is.
        bias: Added; lower declines more often.
    """

    refusal: float
    answer: float
    question: float
    unread: float
    bias: float

    def score(self, reading: Reading, unread: Reading) -> float:
        """Return how much surer than of abstaining one may be of a reading, in nats.

        Args:
            reading: Of a passage.
            unread: Of no passage, for the same question.
        """
        told = self.answer * reading.answer - self.refusal * reading.refusal
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


def find_leads(question: str, passages: Sequence[Passage]) -> list[Lead]:
    """Return, for each passage that others name by its title, the sentence that shares most words with the question.

    >>> engine = Passage("Charles Babbage designed it.", title="Analytical Engine")
    >>> find_leads("Where was its designer born?", [engine, Passage("Born in London.", title="Charles Babbage")])
    [Lead(source=0, target=1, sentence='Analytical Engine: Charles Babbage designed it.')]
    """
    asked = set(normalise_answer(question).split())
    sentences = [
        (number, sentence, f" {normalise_answer(sentence)} ")
        for number, passage in enumerate(passages)
        for sentence in (passage.text[start:end].strip() for start, end in sentence_spans(passage.text))
    ]
    leads = []
    for target, passage in enumerate(passages):
        name = normalise_answer(passage.title or "")
        naming = [
            Lead(source, target, f"{passages[source].title}: {sentence}" if passages[source].title else sentence)
            for source, sentence, said in sentences
            if source != target and len(name) >= LEAST_LEAD and f" {name} " in said
        ]
        if naming:
            leads.append(max(naming, key=lambda lead: len(asked & set(normalise_answer(lead.sentence).split()))))
    return leads


def contexts_of(passages: Sequence[Passage], leads: Sequence[Lead]) -> list[list[Passage]]:
    """Return what is read: nothing, then each passage as it stands, then each one that is led to, under its lead."""
    led = [
        replace(passages[lead.target], text=f"{lead.sentence} {passages[lead.target].text}", id=None) for lead in leads
    ]
    return [[], *([passage] for passage in (*passages, *led))]


def settle(
    passages: Sequence[Passage],
    leads: Sequence[Lead],
    readings: Sequence[Reading],
    weights: ReadingWeights,
    caution: float = 0.0,
) -> Choice:
    """Choose among the readings of `contexts_of`.

    Each passage stands with its surer reading. Passages that answer alike, one perhaps more fully ("2015" and "December
    2015"), add up their probabilities, against that of abstaining; the fullest form that is surer than abstaining is
    given. Under a lead counts only what its passage itself says: what the lead says is its own passage's to
    answer. A reply that only gives the passage's name has taken the lead for the answer, and what the passage says
    without it stands in.

    Args:
        passages: What was retrieved.
        leads: From `find_leads`.
        readings: Of the contexts, in their order.
        weights: How sure each reading is.
        caution: Nats added to abstaining.
    """
    replies = [read_reply(reading.text).answer for reading in readings[1:]]
    scores = [weights.score(reading, readings[0]) for reading in readings[1:]]
    answers, sure = replies[: len(passages)], scores[: len(passages)]
    taken = list(range(len(passages)))
    for place, lead in enumerate(leads, len(passages)):
        at, passage = lead.target, passages[lead.target]
        reply = normalise_answer(replies[place])
        named = reply == normalise_answer(passage.title or "")
        told = reply in ("yes", "no") or contains_answer(passage.text, [replies[place]])
        if scores[place] > sure[at] and (named or told):
            taken[at] = at if named else place
            answers[at], sure[at] = replies[taken[at]], scores[place]
    odds = [
        math.exp(min(score - caution, 500.0)) if answer else 0.0 for answer, score in zip(answers, sure, strict=True)
    ]
    total = 1.0 + sum(odds)
    if not passages or total < 2.0:
        return Choice(ABSTENTION, None, 1.0 / total)
    said = [frozenset(normalise_answer(answer).split()) for answer in answers]
    agreed = [sum(one for one, other in zip(odds, said, strict=True) if _agree(own, other)) for own in said]
    best = max(range(len(passages)), key=lambda number: (agreed[number], odds[number], -number))
    fuller = [n for n, own in enumerate(said) if own > said[best] and len(own - said[best]) <= FULLER and odds[n] > 1.0]
    given = max(fuller, key=lambda number: (odds[number], -number), default=best)
    reading = readings[1 + taken[given]]
    return Choice(f"[{given + 1}] {answers[given]}", given, agreed[best] / total, reading.finish_reason)


def find_evidence(question: str, answer: str, text: str) -> str:
    """Return the sentence of a passage that holds an answer and shares most words with the question.

    Args:
        question: What was asked.
        answer: What was answered from the passage.
        text: The passage.

    Returns:
        The sentence, verbatim but for white space; where it has more than `MOST_QUOTED` words, those around the answer.
        Empty where no sentence holds the answer.

    >>> find_evidence("When did Ada write it?", "1843", "It is old. Ada wrote it in 1843. In 1843 it rained.")
    'Ada wrote it in 1843.'
    """
    asked = set(normalise_answer(question).split())
    sentences = (" ".join(text[start:end].split()) for start, end in sentence_spans(text))
    holding = [one for one in sentences if answer and contains_answer(one, [answer])]
    best = max(holding, key=lambda one: len(asked & set(normalise_answer(one).split())), default="")
    return words_around(best, [answer], MOST_QUOTED) if best else ""


def _agree(one: frozenset[str], other: frozenset[str]) -> bool:
    """Tell whether two answers say the same, one perhaps more fully."""
    return one == other or bool(one and other and (one < other or other < one))


@dataclass(frozen=True, slots=True)
class Read:
    """A question's passages, read.

    Attributes:
        passages: What was retrieved.
        leads: From `find_leads`.
        readings: Of `contexts_of` them, in their order.
    """

    passages: list[Passage]
    leads: list[Lead]
    readings: list[Reading]


def read_questions(local: LocalModel, asked: Iterable[tuple[str, Sequence[Passage]]], **options: Any) -> list[Read]:
    """Read every passage of every question alone, all in one go; what a question has several times is read once.

    Args:
        local: The model.
        asked: Questions with their passages.
        **options: See `read_contexts`.
    """
    contexts: dict[tuple[Any, ...], tuple[str, list[Passage]]] = {}
    turns: list[tuple[list[Passage], list[Lead], list[tuple[Any, ...]]]] = []
    for question, given in asked:
        passages = list(given)
        leads, keys = find_leads(question, passages), list[tuple[Any, ...]]()
        for context in contexts_of(passages, leads):
            keys.append((question, *((said_about(one), one.text) for one in context)))
            contexts[keys[-1]] = (question, context)
        turns.append((passages, leads, keys))
    found = dict(zip(contexts, read_contexts(local, contexts.values(), **options), strict=True))
    return [Read(passages, leads, [found[key] for key in keys]) for passages, leads, keys in turns]


def read_contexts(
    local: LocalModel,
    asked: Iterable[tuple[str, Sequence[Passage]]],
    *,
    adapter: str | None = None,
    template: str = "numbered",
    cancelled: threading.Event | None = None,
    **settings: Any,
) -> list[Reading]:
    """Answer each question from its passages, abstaining ruled out, and keep how sure the model was.

    What is too long for the context window loses its last passages, a single one its end. Where there is none, a
    single token is generated.

    Args:
        local: The model.
        asked: Questions with their passages: one, several or none.
        adapter: See `LocalModel.generate`.
        template: Name in `augmentation.templates.TEMPLATES`.
        cancelled: Once set, reading ends at the next token with what there is.
        **settings: See `LocalModel.generate`.
    """
    name, refusing = local.check_adapter(adapter), local.tokens(ABSTENTION)[0]
    chosen = replace(local.choose(settings), first_token_bias={refusing: -math.inf})
    rows = [_row(local, question, passages, template, chosen, refusing) for question, passages in asked]
    local.run_rows([row for row, _ in rows], chosen, name, cancelled=cancelled)
    return [_reading(row, after, local.finished(row, name)) for row, after in rows]


def _row(
    local: LocalModel,
    question: str,
    passages: Sequence[Passage],
    template: str,
    settings: GenerationSettings,
    refusing: int,
) -> tuple[Row, int]:
    """Return the row to generate, and how many tokens follow the question."""
    form, room = get_template(template), local.prompt_room(settings.max_new_tokens)
    text = render_chat(local.tokenizer, form.messages(question, passages))
    while len(ids := local.tokens(text)) > room and any(passage.text for passage in passages):
        passages = passages[:-1] if len(passages) > 1 else [_shorter(passages[0], len(ids) - room)]
        text = render_chat(local.tokenizer, form.messages(question, passages))
    row = local.row(ids, settings)
    place = text.rindex(question) if question in text else len(text)
    tail, after = local.tokens(" " + text[place:]), local.tokens(text[place + len(question) :])
    row.weighed = refusing
    row.limit = row.limit if passages else 1
    row.scored = len(tail) if row.prompt[-len(tail) :] == tail and len(tail) < len(row.prompt) else 0
    return row, len(after)


def _shorter(passage: Passage, tokens: int) -> Passage:
    """Cut so many tokens, counted in characters, rather too many than too few; the caller's loop makes up for more."""
    return replace(passage, text=passage.text[: max(0, len(passage.text) - max(16, 3 * tokens))])


def _reading(row: Row, after: int, reply: Generation) -> Reading:
    asked = row.prompt_logprobs[: len(row.prompt_logprobs) - after]
    question = sum(asked) / len(asked) if asked else 0.0
    return Reading(
        reply.text, row.margin, sum(row.logprobs), question, len(row.prompt), len(row.ids), reply.finish_reason
    )
