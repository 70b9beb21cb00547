"""The page `docs/noise.md`, made by running every operator: `python -m hybridmem_plugins.augmentation.catalogue`."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from hybridmem_plugins.augmentation.edits import Draft, random_for
from hybridmem_plugins.augmentation.operators import LEVELS, OPERATORS, Operator
from hybridmem_plugins.augmentation.operators.context import Sources
from hybridmem_plugins.augmentation.recipe import DEFAULT_RATES, FILLS
from hybridmem_plugins.passage import Passage

_PROSE = (
    "Ada Lovelace, the first programmer, wrote the first program in 1843. She “often” met Charles Babbage in the café. "
    "Her efficient notes on the Analytical Engine were translated & published."
)
_MARKED = (
    "# Report\n\nRevenue **grew**, see [the note](https://example.org).\n\n| Region | 2018 | 2019 |\n|---|---|---|\n"
    "| North | 10.5 | 11.2 |\n| South | 20.1 | 19.8 |\n\n- first point\n- second point\n\n```\nprint(1)\n```\n\n"
    "Energy is $E = mc^2$ and \\frac{a}{b}."
)
_JSON = '{"name": "engine", "year": 1843, "parts": ["mill", "store"]}'
_METADATA = {"source": "ada.pdf", "page": 3, "date": "2019-05-06"}
_GOLD = Passage(_PROSE, "Ada Lovelace", "gold", _METADATA)
_OTHERS = [
    Passage("The Jacquard loom was controlled by punched cards.", "Jacquard loom", "loom", {"source": "loom.pdf"}),
    Passage("Babbage held the chair of mathematics at Cambridge.", "Charles Babbage", "babbage", {"source": "cb.pdf"}),
    Passage("Steam engines drove the mills of Manchester.", "Steam engine", "steam", {"source": "steam.pdf"}),
]
_HEADINGS = {
    "context": "The list of passages", "chunk": "Chunks", "characters": "Characters", "format": "Format",
    "metadata": "Metadata", "adversarial": "Adversarial",
}  # fmt: skip

_INTRODUCTION = """# The catalogue of noise

<!-- Made by `python -m hybridmem_plugins.augmentation.catalogue > docs/noise.md`; do not edit by hand. -->

Every kind of noise that `NoisyContextAugmenter` makes, with an example made by the code. Each operator is seeded, has
a severity from 0 (nothing) to 1 (every unit), and logs every edit; the log turns the clean context into the noisy one
again (`augmentation.edits.replay`). *Unit* is what severity is the share of. *Default rate* is the chance of the
operator for one context (operators on the list) or one passage (all others), or, for the four pools of wrong passages,
its share of the free slots. Invisible characters are shown as ⍽ (no-break space) and ▯ (zero width).

After noising, the answer is looked for again. If it is gone, the target becomes the abstention; if a false version was
planted beside the true one, the target reports the disagreement; planted instructions are never obeyed.
"""


class _Pools:
    def pool(self, operator: str, rng: random.Random) -> Sequence[Passage]:
        return _OTHERS


def catalogue() -> str:
    """Make the page.

    >>> "### `nbsp`" in catalogue()
    True
    """
    return "\n".join([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for level in LEVELS:
        yield f"## {_HEADINGS[level]}\n"
        for operator in OPERATORS.values():
            if operator.level == level:
                yield _entry(operator)


def _entry(operator: Operator) -> str:
    rate = DEFAULT_RATES.get(operator.name)
    said = f"{rate:g}" + (" of the slots" if operator.name in FILLS else "") if rate is not None else "by the mix"
    facts = f"Unit: {operator.unit}. Typical severity: {operator.typical:g}. Default rate: {said}."
    clean, noisy = _example(operator)
    blocks = f"{_block('clean', clean)}\n\n{_block('noisy', noisy)}"
    return f"### `{operator.name}`\n\n{operator.about}\n\n{facts}\n\n{blocks}\n"


def _block(name: str, text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{name}:\n\n{fence}text\n{_visible(text)}\n{fence}"


def _visible(text: str) -> str:
    return text.replace("\u00a0", "⍽").replace("\u200b", "▯").replace("\u200d", "▯").replace("\u00ad", "▯").rstrip()


def _example(operator: Operator) -> tuple[str, str]:
    """Run an operator on the first sample that it changes."""
    for text in (_PROSE, _MARKED, _JSON):
        for severity in (max(0.3, operator.typical), 1.0):
            draft, shown = _run(operator, Passage(text, "Ada Lovelace", "gold", _METADATA), severity)
            if draft.edits:
                return shown, _shown(draft, operator)
    msg = f"No sample shows what {operator.name} does: add one."
    raise ValueError(msg)


def _run(operator: Operator, gold: Passage, severity: float) -> tuple[Draft, str]:
    rng = random_for(3, "catalogue", operator.name)
    several = operator.kind == "context" and operator.name in ("order", "swapped_ids", "near_duplicate", "split_chunk")
    draft = Draft([gold, *(_OTHERS[:2] if several else [])], ["gold", *(["same_topic"] * 2 if several else [])])
    before = _shown(draft, operator)
    if operator.kind == "context":
        operator.run(draft, severity, rng, Sources(_Pools(), 3, ("1843",)))
    elif operator.kind == "metadata":
        for change in operator.run(gold, severity, rng, _OTHERS):
            draft.set_field(0, operator.name, change.field, change.after)
    else:
        extra = (_OTHERS[0].text,) if operator.kind == "neighbour" else ()
        draft.change_text(0, operator.name, operator.run(gold.text, severity, rng, *extra))
    return draft, before


def _shown(draft: Draft, operator: Operator) -> str:
    if operator.kind in ("text", "neighbour"):
        return draft.passages[0].text
    if operator.kind == "metadata":
        return "\n".join(f"title: {p.title}, metadata: {dict(p.metadata)}" for p in draft.passages)
    lines = [
        f"[{number}] id {passage.id}: {passage.title}"
        + (
            f" ({passage.metadata['date']})"
            if operator.name == "outdated_version" and "date" in passage.metadata
            else ""
        )
        + f"\n    {passage.text}"
        for number, passage in enumerate(draft.passages, 1)
    ]
    return "\n".join(lines) or "(nothing)"


if __name__ == "__main__":
    print(catalogue())
