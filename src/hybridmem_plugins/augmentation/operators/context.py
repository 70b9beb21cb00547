"""Noise in the list of passages: what a retriever returns beside, instead of, or after the right one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.edits import Change, Draft
from hybridmem_plugins.augmentation.operators.chunks import SENTENCE
from hybridmem_plugins.augmentation.operators.registry import operator, pick
from hybridmem_plugins.augmentation.operators.swaps import answer_swap, entity_swaps, main_entity
from hybridmem_plugins.passage import Passage

GOLD_ROLES = frozenset({"gold", "near_duplicate"})
"""Roles of passages that may hold the answer rightly."""


class Distractors(Protocol):
    """Where wrong passages come from; each pool yields passages that are not gold and do not hold the answer."""

    def pool(self, operator: str, rng: random.Random) -> Iterable[Passage]:
        """Yield candidates for one of `random_irrelevant`, `same_topic`, `hard_negatives`, `low_ranked`."""
        ...


@dataclass(frozen=True, slots=True)
class Sources:
    """What operators on the list draw from.

    Attributes:
        distractors: Pools of wrong passages.
        size: How many passages the context should hold, so that `size` minus what is there are the free slots.
        answers: Forms of the right answer.
    """

    distractors: Distractors
    size: int
    answers: Sequence[str] = ()


def fill(draft: Draft, name: str, count: int, sources: Sources, rng: random.Random) -> int:
    """Add up to `count` passages of a pool at the end; give how many there were."""
    if count <= 0:
        return 0
    present = {passage.id for passage in draft.passages}
    added: list[Passage] = []
    for passage in sources.distractors.pool(name, rng):
        if passage.id not in present:
            present.add(passage.id)
            added.append(passage)
        if len(added) == count:
            break
    end = len(draft.passages)
    draft.splice(name, end, end, added, [name] * len(added))
    return len(added)


def _fill_share(draft: Draft, name: str, severity: float, rng: random.Random, sources: Sources) -> None:
    free = range(sources.size - len(draft.passages))
    fill(draft, name, len(pick(free, severity, rng)), sources, rng)


@operator("context", unit="free slots", typical=0.5, kind="context")
def random_irrelevant(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Passages drawn at random from all chunks."""
    _fill_share(draft, "random_irrelevant", severity, rng, sources)


@operator("context", unit="free slots", typical=0.5, kind="context")
def same_topic(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Passages that share the gold's title or its rare words, but do not hold the answer."""
    _fill_share(draft, "same_topic", severity, rng, sources)


@operator("context", unit="free slots", typical=0.5, kind="context")
def hard_negatives(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """What the retriever ranks highest for the question, without the gold and without the answer."""
    _fill_share(draft, "hard_negatives", severity, rng, sources)


@operator("context", unit="free slots", typical=0.5, kind="context")
def low_ranked(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """What the retriever ranks low for the question."""
    _fill_share(draft, "low_ranked", severity, rng, sources)


@operator("context", unit="passages", typical=0.3, kind="context")
def near_duplicate(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Passages come twice, the second time a little shorter."""
    for index in reversed(pick(range(len(draft.passages)), severity, rng)):
        role = "near_duplicate" if draft.roles[index] in GOLD_ROLES else draft.roles[index]
        copy = draft.insert_copy("near_duplicate", index, role)
        text = draft.passages[copy].text
        last = [found.start() for found in SENTENCE.finditer(text)][-1:]
        cut = last[0] if last and last[0] > len(text) * 0.6 else len(text.rstrip()) - 1
        draft.change_text(copy, "near_duplicate", [Change(len(text[:cut].rstrip()), len(text), "")])


def _plant(draft: Draft, name: str, severity: float, rng: random.Random, sources: Sources, earlier: bool) -> None:
    holding = [
        index for index, role in enumerate(draft.roles)
        if role == "gold" and contains_answer(draft.passages[index].text, sources.answers)
    ]  # fmt: skip
    if draft.planted:
        return
    for index in list(pick(holding[:1], severity, rng)):
        changes, planted = answer_swap(draft.passages[index].text, sources.answers, rng, earlier)
        if not changes:
            return
        copy = draft.insert_copy(name, index, name)
        replaced = draft.passages[copy].text[changes[0].start : changes[0].end]
        draft.change_text(copy, name, changes)
        draft.planted.update(operator=name, replaced=replaced, planted=planted)


@operator("context", unit="gold passages", typical=1.0, kind="context")
def contradiction(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """A second version of the gold passage gives another number, date or name for the answer."""
    _plant(draft, "contradiction", severity, rng, sources, earlier=False)


@operator("context", unit="gold passages", typical=1.0, kind="context")
def outdated_version(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """An older version of the gold passage gives a superseded value, and is dated earlier."""
    _plant(draft, "outdated_version", severity, rng, sources, earlier=True)
    if "outdated_version" in draft.roles:
        index = draft.roles.index("outdated_version")
        draft.set_field(
            index, "outdated_version", "metadata.date", f"{rng.randint(1996, 2012)}-{rng.randint(1, 12):02d}-01"
        )


@operator("context", unit="gold passages", typical=1.0, kind="context")
def off_entity(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """A look-alike of the gold passage speaks of another entity, and holds another answer."""
    golds = [index for index, role in enumerate(draft.roles) if role == "gold"]
    for index in reversed(pick(golds, severity, rng)):
        passage = draft.passages[index]
        entity = main_entity(passage.text, passage.title)
        if entity is None or (passage.title and entity not in passage.title):
            # Under the same title it would speak of the same thing.
            continue
        changes, other = entity_swaps(passage.text, entity, rng)
        if not changes:
            continue
        trial = Draft([passage], ["off_entity"])
        trial.change_text(0, "off_entity", changes)
        trial.change_text(0, "off_entity", answer_swap(trial.passages[0].text, sources.answers, rng)[0])
        title = passage.title and passage.title.replace(entity, other)
        if contains_answer(f"{title or ''}\n{trial.passages[0].text}", sources.answers):
            continue
        copy = draft.insert_copy("off_entity", index, "off_entity")
        for edit in trial.edits:
            draft.change_text(copy, "off_entity", [Change(edit.start, edit.end, edit.after)])
        draft.set_field(copy, "off_entity", "title", title)


@operator("context", unit="gold passages", typical=1.0, kind="context")
def missing_gold(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """The passage that holds the answer was not retrieved."""
    golds = [index for index, role in enumerate(draft.roles) if role in GOLD_ROLES]
    for index in reversed(pick(golds, severity, rng)):
        draft.splice("missing_gold", index, index + 1, [], [])


@operator("context", unit="contexts", typical=1.0, kind="context")
def empty_retrieval(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Nothing was retrieved at all."""
    if pick([0], severity, rng):
        draft.splice("empty_retrieval", 0, len(draft.passages), [], [])


@operator("context", unit="passages", typical=1.0, kind="context")
def order(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Passages stand in another order, so that the gold may be anywhere."""
    moved = list(pick(range(len(draft.passages)), severity, rng))
    targets = rng.sample(moved, len(moved))
    places = list(range(len(draft.passages)))
    for source, target in zip(moved, targets, strict=True):
        places[target] = source
    arrange(draft, "order", places)


def arrange(draft: Draft, name: str, places: Sequence[int]) -> None:
    """Put the passages in the given order of their present indices."""
    passages = [draft.passages[index] for index in places]
    draft.splice(name, 0, len(passages), passages, [draft.roles[index] for index in places])


@operator("chunk", unit="passages of two sentences or more", typical=0.5, kind="context")
def split_chunk(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """A passage is cut in two, and the halves come as passages of their own."""
    starts = [[found.start() for found in SENTENCE.finditer(passage.text)][1:] for passage in draft.passages]
    for index in reversed(pick([index for index, found in enumerate(starts) if found], severity, rng)):
        text, at = draft.passages[index].text, rng.choice(starts[index])
        copy = draft.insert_copy("split_chunk", index, draft.roles[index])
        draft.change_text(index, "split_chunk", [Change(len(text[:at].rstrip()), len(text), "")])
        draft.change_text(copy, "split_chunk", [Change(0, at, "")])


@operator("metadata", unit="pairs of passages", typical=0.5, kind="context")
def swapped_ids(draft: Draft, severity: float, rng: random.Random, sources: Sources) -> None:
    """Two passages carry each other's id."""
    indices = rng.sample(range(len(draft.passages)), len(draft.passages))
    for first, second in pick(list(zip(indices[::2], indices[1::2], strict=False)), severity, rng):
        ids = draft.passages[first].id, draft.passages[second].id
        draft.set_field(first, "swapped_ids", "id", ids[1])
        draft.set_field(second, "swapped_ids", "id", ids[0])
