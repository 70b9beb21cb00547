"""Label safety: what the noisy context still supports, what the target must therefore be, and a check of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer, normalise_answer
from hybridmem_plugins.augmentation.edits import Draft, replay, row_passage
from hybridmem_plugins.augmentation.examples import Example
from hybridmem_plugins.augmentation.marks import marked
from hybridmem_plugins.augmentation.operators.adversarial import PAYLOADS
from hybridmem_plugins.augmentation.operators.context import GOLD_ROLES
from hybridmem_plugins.augmentation.recipe import FILLS
from hybridmem_plugins.augmentation.templates import ABSTENTION, said_about
from hybridmem_plugins.passage import Passage

FALSE_ROLES = frozenset({"contradiction", "outdated_version"})

_OTHERS_WORDS = frozenset(
    {"merged_chunks", "html_boilerplate", "page_furniture", "planted_instruction", "fake_citations"}
)
"""Operators that put words of others into a passage, which are no evidence of what it says."""


def supported_answer(draft: Draft, example: Example) -> str | None:
    """Look for the answer again, in the texts of the passages that may rightly hold it.

    Gold passages that do not hold the answer themselves are steps on the way to it (two-hop questions), so they must
    be there too, more than half of each.

    Returns:
        The first form of the answer that is there in full, or None.
    """
    golds = _golds(draft)
    form = _form_in([gold.text for gold in golds], example.spans)
    return example.answers[form] if form is not None and _steps_remain(golds, example) else None


def _golds(draft: Draft) -> list[Passage]:
    return [passage for passage, role in zip(draft.passages, draft.roles, strict=True) if role in GOLD_ROLES]


def _form_in(texts: Sequence[str], forms: Iterable[Sequence[str]]) -> int | None:
    """Find the first form of an answer all of whose spans the texts hold; None where there is none."""
    for number, spans in enumerate(forms):
        if all(any(contains_answer(text, [span]) for text in texts) for span in spans):
            return number
    return None


def _steps_remain(golds: Sequence[Passage], example: Example) -> bool:
    if len(example.gold) == 1:
        return True
    spans = [span for spans in example.spans for span in spans]
    remaining = {word for passage in golds for word in normalise_answer(passage.text).split()}
    words = [set(normalise_answer(passage.text).split()) for passage in example.gold]
    for number, step in enumerate(example.gold):
        if contains_answer(step.text, spans):
            continue
        # What this step alone says, as words that it shares with the others prove nothing.
        own = words[number].difference(*(words[other] for other in range(len(words)) if other != number))
        if 2 * len(own & remaining) <= len(own):
            return False
    return True


def consistent(draft: Draft, example: Example, answer: str | None, untouched: Callable[[Passage], bool]) -> bool:
    """Tell whether the context can be labelled: the answer is where it may be, or nowhere at all.

    It must not be in a wrong passage, nor left over in a title or shown metadata alone; and a false version may be
    there only beside the true one. Chunks that are `untouched` were checked when they were drawn.
    """
    giveaways, supported = example.giveaways, answer is not None
    if draft.planted and not (supported and planted_index(draft) is not None):
        return False
    for passage, role in zip(draft.passages, draft.roles, strict=True):
        if (supported and role in GOLD_ROLES) or (role in FILLS and untouched(passage)):
            continue
        if contains_answer(passage.text, giveaways):
            if role not in GOLD_ROLES or len(example.gold) == 1:
                return False
        elif role not in FALSE_ROLES and contains_answer(said_about(passage), giveaways):
            return False
    return True


def planted_index(draft: Draft) -> int | None:
    """Find the passage that says the planted value; None where later noise destroyed it."""
    for index, role in enumerate(draft.roles):
        if role in FALSE_ROLES and contains_answer(draft.passages[index].text, [draft.planted["planted"]]):
            return index
    return None


def label(draft: Draft, example: Example, kind: str, supported: str | None) -> dict[str, Any]:
    """Describe a noisy context: what it supports and what was done to it.

    Returns:
        Plain JSON: `kind`, `answer_present` (in full in the gold passages' texts), `answerable` (and every other gold
        passage, a step on the way to it, is there too), `abstain` (the target is the abstention), `contradiction`
        (None, or operator, passage index, replaced and planted value), `planted_instruction`, `operators` (names,
        sorted) and `severities` (by name).
    """
    names = sorted({edit.operator for edit in draft.edits})
    return {
        "kind": kind,
        "answer_present": supported is not None
        or _form_in([gold.text for gold in _golds(draft)], example.spans) is not None,
        "answerable": supported is not None,
        "abstain": supported is None,
        "contradiction": {**draft.planted, "passage": planted_index(draft)} if draft.planted else None,
        "planted_instruction": "planted_instruction" in names,
        "operators": names,
        "severities": {name: round(draft.severities[name], 3) for name in names if name in draft.severities},
    }


def target(draft: Draft, example: Example, supported: str | None) -> str:
    """Write the completion: the answer, a report of the disagreement, or the abstention."""
    if supported is None:
        return ABSTENTION
    if draft.planted:
        false = planted_index(draft)
        true = next(
            index for index, role in enumerate(draft.roles)
            if role in GOLD_ROLES and contains_answer(draft.passages[index].text, [supported])
        )  # fmt: skip
        return (
            f"The passages disagree: passage {true + 1} says “{supported}”, "
            f"passage {(false or 0) + 1} says “{draft.planted['planted']}”."
        )
    if example.completion and contains_answer(example.completion, [supported]):
        return example.completion
    return supported


def check_row(row: Mapping[str, Any], lookup: Callable[[str], Passage] | None = None) -> list[str]:
    """Check a finished row anew, from its passages alone.

    Args:
        row: As `build_dataset` yields it.
        lookup: Gives a chunk by id, so that the log can be replayed too (`NoisyDataset.lookup`): it must lead to these
            passages, and text that an operator brought from elsewhere does not count as evidence. None skips that.

    Returns:
        What is wrong, in words; an empty list for a sound row.
    """
    labels, completion, problems = row["labels"], row["completion"], []
    spans = row["answer_spans"]
    golds = [p for p in row["passages"] if p["role"] in GOLD_ROLES]
    others = [p for p in row["passages"] if p["role"] not in GOLD_ROLES]
    present = _form_in([p["text"] for p in golds], spans) is not None
    # Rows of former versions have no aliases.
    giveaways = [*(span for form in spans for span in form), *row.get("aliases", ())]
    if labels["answer_present"] and not present:
        problems.append("labelled as present, but the answer is not in a gold passage")
    if present and not labels["answer_present"]:
        problems.append("labelled as absent, but the answer is in a gold passage")
    if labels["answerable"] and not labels["answer_present"]:
        problems.append("labelled as answerable, but not as present")
    if any(contains_answer(p["text"], giveaways) for p in others):
        problems.append("a wrong passage holds the answer")
    # False copies have the gold's title and date, which may rightly say the answer.
    heads = [p for p in others if p["role"] not in FALSE_ROLES] + ([] if present else golds)
    if any(contains_answer(said_about(row_passage(p)), giveaways) for p in heads):
        problems.append("a title or metadata alone hold the answer")
    if (completion == ABSTENTION) != labels["abstain"] or labels["abstain"] == labels["answerable"]:
        problems.append("target and abstention label differ")
    if labels["answerable"] and not any(all(contains_answer(completion, [span]) for span in form) for form in spans):
        problems.append("the target lacks the answer")
    planted = labels["contradiction"]
    if planted and not contains_answer(row["passages"][planted["passage"]]["text"], [planted["planted"]]):
        problems.append("the planted contradiction is not where the label says")
    if any(payload.casefold() in completion.casefold() for payload in PAYLOADS):
        problems.append("the target obeys a planted instruction")
    if lookup is not None:
        problems += _unfaithful(row, lookup)
    return problems


def _unfaithful(row: Mapping[str, Any], lookup: Callable[[str], Passage]) -> list[str]:
    """Hold a row against its log."""
    if replay(list(map(row_passage, row["clean"])), row["edits"], lookup) != list(map(row_passage, row["passages"])):
        return ["the log does not lead from the clean to the noisy context"]
    own = [
        "".join("\n" if piece.operator in _OTHERS_WORDS else piece.text for piece in pieces)
        for p, pieces in zip(row["passages"], marked(row, lookup), strict=True)
        if p["role"] in GOLD_ROLES
    ]
    if row["labels"]["answer_present"] and _form_in(own, row["answer_spans"]) is None:
        return ["labelled as present, but the answer is in inserted text alone"]
    return []
