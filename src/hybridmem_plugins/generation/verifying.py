"""Several answers of each passage, and what a verifier says of each.

What a small model thinks of second is often right where its first answer is not: some answer among a few of each
passage is right on 80% of noisy questions, the first ones on 57%. A verifier, an adapter that learnt on a reader's own
mistakes to tell right answers from wrong ones (arXiv 2110.14168), chooses among them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.templates import get_template, read_reply
from hybridmem_plugins.generation.chat import render_chat
from hybridmem_plugins.generation.decoding import Row, bare, decode, next_logits, read_prompts
from hybridmem_plugins.generation.evidence import find_evidence
from hybridmem_plugins.passage import Passage

if TYPE_CHECKING:
    from hybridmem_plugins.generation.local_model import LocalModel

RIVALS, BRANCHES, ANSWERS = 4, 5, 4
"""Next best tokens at each place, ways to deviate that are followed, and answers that are kept of a passage."""

LONGEST, TURN = 24, 256
"""Tokens that an answer has at most after it deviates, and those that asking the verifier takes beside the question."""

NEAR = 3.0
"""Nats that an answer may be less likely than its passage's likeliest one, and a passage less sure than the surest."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of a passage.

    Attributes:
        text: The reply, in the adapter's form.
        answer: Natural log-probability of the reply.
        verdict: How much likelier the verifier is to call it right than wrong, in nats; 0 without one.
    """

    text: str
    answer: float
    verdict: float = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A passage with the question, as it was read.

    Attributes:
        question: What was asked.
        passage: As it was shown.
        row: The likeliest reply, with its `beaten` tokens.
    """

    question: str
    passage: Passage
    row: Row


def find_candidates(
    local: LocalModel, opened: Sequence[Opened], adapter: str, cancelled: threading.Event | None = None
) -> list[list[Candidate]]:
    """Return up to `ANSWERS` distinct answers of each passage, the likeliest first.

    The others deviate from it at one token, go on greedily, and stand in the passage.

    Args:
        local: The model.
        opened: What was read, each likeliest reply being finished.
        adapter: The one that read it.
        cancelled: Once set, what there is by then is returned.
    """
    found = [[Candidate(one.row.text, sum(one.row.logprobs))] for one in opened]
    cited = local.tokens("[1]")
    for places in local.batches([len(one.row.prompt) for one in opened]):
        begun = [(place, row) for place in places for row in _branches(opened[place].row, cited)]
        running = [(place, row) for place, row in begun if row.finish_reason is None]
        if running and not (cancelled and cancelled.is_set()):
            _follow(local, [opened[place].row for place in places], places, running, adapter, cancelled)
        for place, row in begun:
            found[place].append(Candidate(row.text, sum(row.logprobs)))
    return [_distinct(own, one.passage) for own, one in zip(found, opened, strict=True)]


def _follow(
    local: LocalModel,
    read: Sequence[Row],
    places: Sequence[int],
    running: Sequence[tuple[int, Row]],
    adapter: str,
    cancelled: threading.Event | None,
) -> None:
    """Generate branches; the prompts of their batch are read once."""
    rows = [row for _, row in running]
    with local.using(adapter):
        prefix = read_prompts(local.model, read, local.pad_id)
    after = (prefix, [places.index(place) for place, _ in running])
    stopped = cancelled.is_set if cancelled is not None else bool
    for _ in decode(
        local.model, rows, rows[0].settings, local.pad_id, lambda: local.using(adapter), stopped, after=after
    ):
        pass


def _branches(row: Row, cited: list[int]) -> list[Row]:
    """Return the likeliest ways to deviate from a reply at one token after its citation, as rows to go on with."""
    if row.ids[: len(cited)] != cited or len(row.beaten) < len(row.ids):
        return []
    ways, before, least = [], sum(row.logprobs[: len(cited)]), sum(row.logprobs) - NEAR
    for place in range(len(cited), len(row.ids)):
        ends = row.stop_ids if place == len(cited) else ()
        ways += [
            (before + sure, place, token)
            for token, sure in row.beaten[place]
            if token not in ends and before + sure >= least
        ]
        before += row.logprobs[place]
    return [_branch(row, *way) for way in sorted(ways, reverse=True)[:BRANCHES]]


def _branch(row: Row, sure: float, place: int, token: int) -> Row:
    begun = replace(
        row, ids=row.ids[:place], logprobs=[sure], beaten=[], rivals=0, scored=0, weighed=None, shown=0, text="",
        finish_reason=None, limit=min(row.limit, place + LONGEST),
    )  # fmt: skip
    begun.push(token)
    return begun


def _distinct(candidates: Sequence[Candidate], passage: Passage) -> list[Candidate]:
    said, kept = f"{passage.text} {passage.title or ''}", dict[str, Candidate]()
    first, *others = candidates
    for one in (first, *sorted(others, key=lambda other: -other.answer)):
        answer = read_reply(one.text).answer
        near = one is first or (one.answer >= first.answer - NEAR and contains_answer(said, [answer]))
        if near and (key := normalise_answer(answer)):
            kept.setdefault(key, one)
    return list(kept.values())[:ANSWERS] or [first]


def verify(
    local: LocalModel,
    asked: Sequence[tuple[Opened, Sequence[Candidate]]],
    verifier: str,
    template: str = "numbered",
    cancelled: threading.Event | None = None,
) -> list[list[Candidate]]:
    """Return answers with the verifier's verdicts.

    It is asked in a turn after the answer, beside the sentence that holds it: the passage is read once for all answers.

    Args:
        local: The model.
        asked: What was read, and its answers.
        verifier: Name of the adapter that tells right answers from wrong ones.
        template: Of the prompts that were read.
        cancelled: Once set, the rest keeps verdicts of 0.
    """
    yes, no = local.tokens("Yes")[0], local.tokens("No")[0]
    found = [list(candidates) for _, candidates in asked]
    for places in local.batches([len(one.row.prompt) for one, _ in asked]):
        if cancelled is not None and cancelled.is_set():
            break
        rows = [(place, number) for place in places for number in range(len(found[place]))]
        prompts = [bare(asked[place][0].row) for place in places]
        turns = [
            replace(prompts[places.index(place)], prompt=verifying_prompt(local.tokenizer, local.tokens, *told))
            for place, number in rows
            for told in [(asked[place][0], found[place][number].text, template)]
        ]
        with local.using(verifier):
            prefix = read_prompts(local.model, prompts, local.pad_id)
        with local.using(verifier):
            logits = next_logits(local.model, turns, local.pad_id, (prefix, [places.index(place) for place, _ in rows]))
        for (place, number), odds in zip(rows, (logits[:, yes] - logits[:, no]).tolist(), strict=True):
            found[place][number] = replace(found[place][number], verdict=odds)
    return found


def verifying_prompt(
    tokenizer: Any, tokens: Callable[[str], list[int]], opened: Opened, reply: str, template: str
) -> list[int]:
    """Return the token ids that ask whether a reply is right, beginning with those of the prompt that it answers."""
    answer = read_reply(reply).answer
    evidence = find_evidence(opened.question, answer, opened.passage.text)
    asked = (f'"{evidence}"\n' if evidence else "") + f"{opened.question}\nIs it {answer}?"
    chat = get_template(template).messages(opened.question, [opened.passage])
    shown = render_chat(tokenizer, chat)
    more = [{"role": "assistant", "content": f"[1] {answer}"}, {"role": "user", "content": asked}]
    whole = render_chat(tokenizer, [*chat, *more])
    if not whole.startswith(shown):
        msg = "The chat template changes a prompt once it is answered: a verifier cannot be asked with it."
        raise ValueError(msg)
    return [*opened.row.prompt, *tokens(whole[len(shown) :])]
