"""One clean context becomes one noisy one, in the order in which real pipelines break it."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import Change, Draft, random_for
from hybridmem_plugins.augmentation.examples import Example
from hybridmem_plugins.augmentation.labels import consistent, supported_answer
from hybridmem_plugins.augmentation.operators import OPERATORS
from hybridmem_plugins.augmentation.operators.context import Sources, arrange, fill
from hybridmem_plugins.augmentation.pools import ChunkStore, Pools, relevance
from hybridmem_plugins.augmentation.recipe import ContextPlan, Recipe
from hybridmem_plugins.passage import Passage

ATTEMPTS = 6
"""Noise that would mislabel the row (the answer slipped into a wrong passage) is drawn anew so many times."""

# These look at the gold's text, so they come after the gold is noised and before the list is filled.
_COPIES_OF_GOLD = ("contradiction", "outdated_version", "off_entity")


class Composed(NamedTuple):
    """A noisy context, the kind of row it became, and the answer that it still supports (or None)."""

    draft: Draft
    kind: str
    supported: str | None


def compose(example: Example, recipe: Recipe, store: ChunkStore, seed: int, row_id: str) -> Composed:
    """Noise one example.

    Args:
        example: Question, answers and gold.
        recipe: Chooses kinds, operators and severities.
        store: Chunks to draw wrong passages from.
        seed: Of the whole data set.
        row_id: Of this row; with the seed, it alone decides on all randomness.

    Returns:
        The noisy context. Where every attempt would have been labelled wrongly, the clean one.
    """
    rng = random_for(seed, row_id, "row")
    plan = recipe.context(rng, len(example.gold))
    for _ in range(ATTEMPTS):
        draft = _attempt(example, plan, recipe, store, rng)
        supported = supported_answer(draft, example)
        if consistent(draft, example, supported, store.holds):
            return Composed(draft, plan.kind, supported)
    return Composed(_fresh(example), "clean", example.answers[0])


def _fresh(example: Example) -> Draft:
    return Draft(list(example.gold), ["gold"] * len(example.gold))


def _attempt(example: Example, plan: ContextPlan, recipe: Recipe, store: ChunkStore, rng: random.Random) -> Draft:
    draft = _fresh(example)
    sources = Sources(Pools(store, example), plan.size, example.giveaways)
    if plan.kind == "clean":
        return draft
    if plan.kind == "empty":
        _run(draft, "empty_retrieval", 1.0, rng, sources)
        return draft
    if plan.kind == "no_gold":
        _run(draft, "missing_gold", 1.0, rng, sources)
    elif plan.gold_slots is not None and len(plan.gold_slots) < len(draft.passages):
        _lose(draft, len(draft.passages) - len(plan.gold_slots), rng)
    noise_passages(draft, range(len(draft.passages)), recipe, store, rng, example)
    joined = any(len(spans) > 1 for spans in example.spans)
    for name, severity in plan.operators:
        # A false copy of an answer in several parts would be half true.
        if name in _COPIES_OF_GOLD and not joined:
            _run(draft, name, severity, rng, sources)
    first = len(draft.passages)
    if plan.relevance is None:
        _fill(draft, plan, sources, rng)
    else:
        wanted = _relevance_found(example, store, plan) if store.has_retriever else plan.relevance
        _fill_by_relevance(draft, wanted, sources, rng, example.question)
    noise_passages(draft, range(first, len(draft.passages)), recipe, store, rng, example)
    for name, severity in plan.operators:
        if name not in _COPIES_OF_GOLD:
            _run(draft, name, severity, rng, sources)
    if plan.gold_slots:
        place_golds(draft, plan.gold_slots, rng)
    return draft


def _run(draft: Draft, name: str, severity: float, rng: random.Random, sources: Sources) -> None:
    known = len(draft.edits)
    OPERATORS[name].run(draft, severity, rng, sources)
    draft.record(name, severity, known)


def _lose(draft: Draft, count: int, rng: random.Random) -> None:
    """Take so many gold passages away."""
    share = count / len(draft.passages)
    for index in sorted(rng.sample(range(len(draft.passages)), count), reverse=True):
        draft.splice("missing_gold", index, index + 1, [], [])
    draft.severities["missing_gold"] = share


def _fill(draft: Draft, plan: ContextPlan, sources: Sources, rng: random.Random) -> None:
    free = plan.size - len(draft.passages)
    wanted = plan.fills[: max(free, 0)]
    for name in dict.fromkeys(wanted):
        fill(draft, name, wanted.count(name), sources, rng)
    fill(draft, "random_irrelevant", plan.size - len(draft.passages), sources, rng)


def _relevance_found(example: Example, store: ChunkStore, plan: ContextPlan) -> list[str]:
    """Judge what the user's own retriever finds beside the gold: a profile knows all questions, this knows the one."""
    drawn = list(plan.relevance or ())
    gold_ids = {passage.id for passage in example.gold}
    ranked = store.ranked(example.question)
    found = [passage for passage in ranked if passage.id not in gold_ids]
    judged = [relevance(example.question, passage) for passage in found[: len(drawn)]]
    if drawn[:1] == ["near"] and ranked and ranked[0].id in gold_ids and 0 not in (plan.gold_slots or ()):
        # What comes before the gold is nearer to the question than what comes after it.
        judged[:1] = ["near"]
    return judged + drawn[len(judged) :]


def _fill_by_relevance(
    draft: Draft, wanted: Sequence[str], sources: Sources, rng: random.Random, question: str
) -> None:
    """Fill slot after slot with a passage as near to the question as wanted, or the nearest to be had."""
    pools = {"near": "hard_negatives", "far": "random_irrelevant"}
    present = {passage.id for passage in draft.passages}

    def fresh(name: str) -> Iterator[Passage]:
        return (passage for passage in sources.distractors.pool(name, rng) if passage.id not in present)

    ranked, strangers = chain(fresh("hard_negatives"), fresh("low_ranked")), fresh("random_irrelevant")
    waiting: dict[str, deque[Passage]] = {name: deque() for name in pools}
    for name in wanted:
        while not waiting[name] and (passage := next(ranked, None)):
            waiting[relevance(question, passage)].append(passage)
        queue = waiting[name] or waiting["far" if name == "near" else "near"]
        chosen = queue.popleft() if queue else next(strangers, None)
        if chosen is not None and chosen.id not in present:
            present.add(chosen.id)
            end = len(draft.passages)
            draft.splice(pools[name], end, end, [chosen], [pools[name]])


def place_golds(draft: Draft, slots: Sequence[int], rng: random.Random) -> None:
    """Put the gold passages, in any order, into these slots, leaving the others in theirs."""
    golds = [index for index, role in enumerate(draft.roles) if role == "gold"]
    order = [index for index in range(len(draft.passages)) if index not in golds]
    for slot, index in zip(slots, rng.sample(golds, len(golds)), strict=True):
        order.insert(min(slot, len(order)), index)
    arrange(draft, "order", order)


def noise_passages(
    draft: Draft,
    indices: Sequence[int],
    recipe: Recipe,
    store: ChunkStore | None,
    rng: random.Random,
    example: Example | None = None,
) -> None:
    """Apply the operators that the recipe chooses for each of some passages of a draft."""
    giveaways = example.giveaways if example else []
    for index in indices:
        for name, severity in recipe.passage(rng, draft.passages[index]):
            operator = OPERATORS[name]
            passage, known = draft.passages[index], len(draft.edits)
            if operator.kind == "metadata":
                others = store.passages[:50] if store else draft.passages
                for change in operator.run(passage, severity, rng, others):
                    draft.set_field(index, name, change.field, change.after)
            else:
                following = (_neighbour(draft, index, store),) if operator.kind == "neighbour" else ()
                changes = operator.run(passage.text, severity, rng, *following)
                safe = [change for change in changes if not _gives_away(change, passage.text, giveaways)]
                draft.change_text(index, name, safe)
            draft.record(name, severity, known)


def _neighbour(draft: Draft, index: int, store: ChunkStore | None) -> str:
    """Give the text of the next chunk."""
    if store:
        return store.after(draft.passages[index])
    return "".join(other.text for other in draft.passages[index + 1 : index + 2])


_REACH = 80
"""Characters beside an insertion within which it could make an answer together with what stands there."""


def _gives_away(change: Change, text: str, giveaways: Sequence[str]) -> bool:
    """Tell whether a change inserts an answer ("see Norwell 1990"): evidence is only what the passage says itself."""
    if change.start != change.end or change.after.strip() in text:
        return False
    before, after = text[max(0, change.start - _REACH) : change.start], text[change.end : change.end + _REACH]
    made = contains_answer(f"{before}{change.after}{after}", giveaways)
    return made and (contains_answer(change.after, giveaways) or not contains_answer(f"{before}{after}", giveaways))


_NEED_NO_POOL = frozenset({"near_duplicate", "order", "split_chunk", "swapped_ids"})


class _NoPools:
    def pool(self, operator: str, rng: random.Random) -> Sequence[Passage]:
        return ()


def noise_context(draft: Draft, recipe: Recipe, rng: random.Random) -> None:
    """Noise retrieved passages of which nothing is known: neither gold nor answer.

    The recipe's mix holds here too: some contexts stay clean, some become empty, all others are noised.
    """
    plan = recipe.context(rng, len(draft.passages))
    if plan.kind == "clean":
        return
    if plan.kind == "empty":
        draft.splice("empty_retrieval", 0, len(draft.passages), [], [])
        return
    noise_passages(draft, range(len(draft.passages)), recipe, None, rng)
    sources = Sources(_NoPools(), len(draft.passages))
    for name, severity in plan.operators:
        if name in _NEED_NO_POOL:
            _run(draft, name, severity, rng, sources)
