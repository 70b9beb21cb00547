"""Read each passage alone with the question, and answer from the one that the model is surest about.

Passages read together disturb each other, the more the smaller the model is. Read alone, none can, and what one passage
orders does not reach the reading of another (isolate, then aggregate: arXiv 2405.15556). A passage that others name is
also read under the sentence that names it best: that is how the second passage of a question in two steps comes to
look like an answer to it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.answers import normalise_answer
from hybridmem_plugins.augmentation.templates import ABSTENTION, get_template, said_about
from hybridmem_plugins.extraction.sentences import sentence_spans
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.decoding import GenerationSettings, Row
from hybridmem_plugins.generation.settling import Lead, Reading, ReadingWeights
from hybridmem_plugins.generation.verifying import NEAR, RIVALS, TURN, Opened, find_candidates, verify
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.generation.local_model import LocalModel

LEAST_LEAD = 3
"""Letters that a title needs before a sentence that says it is taken to name its passage."""


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


def read_questions(
    local: LocalModel,
    asked: Iterable[tuple[str, Sequence[Passage]]],
    *,
    adapter: str | None = None,
    template: str = "numbered",
    cancelled: threading.Event | None = None,
    **settings: Any,
) -> list[Read]:
    """Read every passage of every question alone, all in one go; what a question has several times is read once.

    Where the adapter has a verifier, the passages of each question that are nearly as sure as its surest one get
    several answers, each with a verdict; the others then have none.

    Args:
        local: The model.
        asked: Questions with their passages.
        adapter: See `LocalModel.generate`.
        template: Name in `augmentation.templates.TEMPLATES`.
        cancelled: Once set, reading ends at the next token with what there is.
        **settings: See `LocalModel.generate`.
    """
    name = local.check_adapter(adapter)
    contexts: dict[tuple[Any, ...], tuple[str, list[Passage]]] = {}
    turns: list[tuple[list[Passage], list[Lead], list[tuple[Any, ...]]]] = []
    for question, given in asked:
        passages = list(given)
        leads, keys = find_leads(question, passages), list[tuple[Any, ...]]()
        for context in contexts_of(passages, leads):
            keys.append((question, *((said_about(one), one.text) for one in context)))
            contexts[keys[-1]] = (question, context)
        turns.append((passages, leads, keys))
    rivals = RIVALS if name in local.verifiers else 0
    opened = dict(
        zip(contexts, _read(local, contexts.values(), name, template, cancelled, rivals, settings), strict=True)
    )
    found = {key: one.reading for key, one in opened.items()}
    if name not in local.verifiers:
        return [Read(passages, leads, [found[key] for key in keys]) for passages, leads, keys in turns]
    surest = [nearly_surest(keys, found, local.reading_weights[name]) for _, _, keys in turns]
    needed = {key: opened[key] for keys in surest for key in keys}
    verified = dict(zip(needed, _verified(local, list(needed.values()), name, template, cancelled), strict=True))
    return [
        Read(passages, leads, [verified[key] if key in near else found[key] for key in keys])
        for (passages, leads, keys), near in zip(turns, surest, strict=True)
    ]


def nearly_surest(
    keys: Sequence[tuple[Any, ...]], found: Mapping[tuple[Any, ...], Reading], weights: ReadingWeights
) -> set[tuple[Any, ...]]:
    """Return which contexts of a question are at most `NEAR` less sure than the surest one."""
    unread = found[keys[0]]
    scores = {key: weights.score(found[key], unread) for key in keys[1:]}
    least = max(scores.values(), default=0.0) - NEAR
    return {key for key, score in scores.items() if score >= least}


def _verified(
    local: LocalModel, read: Sequence[_Read], name: str, template: str, cancelled: threading.Event | None
) -> list[Reading]:
    """Return readings of single passages with several answers each, which the adapter's verifier was asked about."""
    opened = [Opened(one.question, one.shown[0], one.row) for one in read]
    candidates = find_candidates(local, opened, name, cancelled)
    asked = list(zip(opened, candidates, strict=True))
    verified = verify(local, asked, local.verifiers[name], template, cancelled)
    return [replace(one.reading, candidates=tuple(own)) for one, own in zip(read, verified, strict=True)]


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
    name = local.check_adapter(adapter)
    return [one.reading for one in _read(local, asked, name, template, cancelled, 0, settings)]


def open_passages(
    local: LocalModel,
    asked: Iterable[tuple[str, Sequence[Passage]]],
    *,
    adapter: str,
    template: str = "numbered",
    **settings: Any,
) -> list[Opened]:
    """Read questions with one passage each as `read_contexts` does, for `verifying.find_candidates` to go on from."""
    read = _read(local, asked, local.check_adapter(adapter), template, None, RIVALS, settings)
    return [Opened(one.question, one.shown[0], one.row) for one in read]


@dataclass(frozen=True, slots=True)
class _Read:
    """One context's reading, the passages as they were shown, and the row that it came from."""

    question: str
    shown: Sequence[Passage]
    row: Row
    reading: Reading


def _read(
    local: LocalModel,
    asked: Iterable[tuple[str, Sequence[Passage]]],
    name: str,
    template: str,
    cancelled: threading.Event | None,
    rivals: int,
    settings: Mapping[str, Any],
) -> list[_Read]:
    refusing = local.tokens(ABSTENTION)[0]
    chosen = replace(local.choose(settings), first_token_bias={refusing: -math.inf})
    questions = [(question, list(passages)) for question, passages in asked]
    rows = [_row(local, *one, template, chosen, refusing, rivals) for one in questions]
    local.run_rows([row for row, _, _ in rows], chosen, name, cancelled=cancelled)
    found = []
    for (question, _), (row, after, shown) in zip(questions, rows, strict=True):
        told = row.prompt_logprobs[: len(row.prompt_logprobs) - after]
        reply, mean = local.finished(row, name), sum(told) / len(told) if told else 0.0
        reading = Reading(
            reply.text, row.margin, sum(row.logprobs), mean, len(row.prompt), len(row.ids), reply.finish_reason
        )
        found.append(_Read(question, shown, row, reading))
    return found


def _row(
    local: LocalModel,
    question: str,
    passages: Sequence[Passage],
    template: str,
    settings: GenerationSettings,
    refusing: int,
    rivals: int,
) -> tuple[Row, int, Sequence[Passage]]:
    """Return the row to generate, how many tokens follow the question, and the passages as they are shown."""
    # A verifier is asked the question again, beside the answer and its sentence.
    after = max(settings.max_new_tokens, TURN + len(local.tokens(question)) if rivals else 0)
    form, room = get_template(template), local.prompt_room(after)
    text = render_chat(local.tokenizer, form.messages(question, passages))
    while len(ids := local.tokens(text)) > room and any(passage.text for passage in passages):
        passages = passages[:-1] if len(passages) > 1 else [_shorter(passages[0], len(ids) - room)]
        text = render_chat(local.tokenizer, form.messages(question, passages))
    row = local.row(ids, settings)
    place = text.rindex(question) if question in text else len(text)
    tail, rest = local.tokens(" " + text[place:]), local.tokens(text[place + len(question) :])
    row.weighed, row.measured, row.rivals = refusing, True, rivals
    row.limit = row.limit if passages else 1
    row.scored = len(tail) if row.prompt[-len(tail) :] == tail and len(tail) < len(row.prompt) else 0
    return row, len(rest), passages


def _shorter(passage: Passage, tokens: int) -> Passage:
    """Cut so many tokens, counted in characters, rather too many than too few; the caller's loop makes up for more."""
    return replace(passage, text=passage.text[: max(0, len(passage.text) - max(16, 3 * tokens))])
