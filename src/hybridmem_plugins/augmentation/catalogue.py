"""The page `docs/noise.md`, made by running every operator: `python -m hybridmem_plugins.augmentation.catalogue`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from hybridmem_plugins.augmentation.edits import Draft, random_for
from hybridmem_plugins.augmentation.examples import read_example
from hybridmem_plugins.augmentation.operators import LEVELS, OPERATORS, Operator
from hybridmem_plugins.augmentation.operators.context import Sources
from hybridmem_plugins.augmentation.pools import ChunkStore, Pools
from hybridmem_plugins.augmentation.recipe import DEFAULT_RATES, FILLS
from hybridmem_plugins.passage import Passage

# A sentence a line, so that a comparison of lines shows the changed sentences alone.
_PROSE = (
    "Ada Lovelace, the first programmer, wrote the first program in 1843.\n"
    "She “often” met Charles Babbage in the café.\n"
    "Her efficient notes on the Analytical Engine were translated & published."
)
_MARKED = (
    "# Report\n\nRevenue **grew**, see [the note](https://example.org).\n\n| Region | 2018 | 2019 |\n|---|---|---|\n"
    "| North | 10.5 | 11.2 |\n| South | 20.1 | 19.8 |\n\n- first point\n- second point\n\n```\nprint(1)\n```\n\n"
    "Energy is $E = mc^2$ and \\frac{a}{b}."
)
_JSON = '{"name": "engine", "year": 1843, "parts": ["mill", "store"]}'
_QUESTION, _ANSWER = "When did Ada Lovelace write the first program?", "1843"
_GOLD = Passage(_PROSE, "Ada Lovelace", "ada-1", {"source": "ada.pdf", "page": 3, "date": "2019-05-06"})
_CHUNKS = [
    _GOLD,
    *(
        Passage(text, title, name, {"source": f"{name.partition('-')[0]}.pdf", "date": "2018-02-01"})
        for name, title, text in (
            ("ada-2", "Ada Lovelace", "Lovelace was buried beside her father.\nA computer language bears her name."),
            ("program", "Computer program", "A program is written in a language. The first did no more than count."),
            ("engine", "Analytical Engine", "The engine was to have a mill and a store. No program ever ran on it."),
            ("babbage", "Charles Babbage", "Babbage held the chair of mathematics at Cambridge."),
            ("note", "Ada (language)", "Ada is a language for large programs; it was first used in aircraft."),
            ("write", "Typewriter", "Many wrote their first letters by machine in the 1870s."),
            ("loom", "Jacquard loom", "The Jacquard loom was controlled by punched cards."),
            ("steam", "Steam engine", "Steam engines drove the mills of Manchester."),
            ("corn", "Corn mill", "The mill by the river ground corn for the whole valley."),
        )
    ),
]
_LEVEL_NAMES = {
    "context": "The list of passages", "chunk": "Chunks", "characters": "Characters", "format": "Format",
    "metadata": "Metadata", "adversarial": "Adversarial",
}  # fmt: skip

_INTRODUCTION = """# The catalogue of noise

<!-- Made by `python -m hybridmem_plugins.augmentation.catalogue > docs/noise.md`; do not edit by hand. -->

Every kind of noise that `NoisyContextAugmenter` makes. Each operator is seeded, has a severity from 0 (nothing) to 1
(every unit), and logs every edit; the log turns the clean context into the noisy one again
(`augmentation.edits.replay`).

After noising, the answer is looked for again. If it is gone, the target becomes the abstention; if a false version was
planted beside the true one, the target reports the disagreement; planted instructions are never obeyed.

```text
NoisyContextAugmenter(seed=0, rates={"typos": 0.5, "contradiction": 0.2}, severity={"typos": 0.1}, size=5,
                      mix={"noisy": 0.6, "clean": 0.15, "no_gold": 0.15, "empty": 0.1})
```

`rates` replace the default ones: operators that you do not name are off. `severity` is one number for all, or one
each. `mix` is the share of each kind of row: gold among noise (`noisy`), gold alone and untouched (`clean`), noise
without the gold (`no_gold`), nothing retrieved (`empty`); the shares above are the default ones.

## All operators

*Severity* is the share of these units that are changed, and how large it is where you set none. *Rate* is the default
chance for one context (operators on the list) or one passage (all others); for the four pools of wrong passages it is
the share of the free slots.
"""

_READING = """
## Examples

All are made by the code. Lines with `-` are clean, lines with `+` noisy, and what stays is left out. Invisible
characters are shown as ⍽ (no-break space) and ▯ (zero width).
"""


def catalogue() -> str:
    """Make the page.

    >>> "#### `nbsp`" in catalogue()
    True
    """
    return "\n".join([_INTRODUCTION, *_index(), _READING, *_sections()])


def _index() -> Iterator[str]:
    yield "| operator | what it does | severity | rate |"
    yield "|---|---|---|---|"
    for level in LEVELS:
        yield f"| **{_LEVEL_NAMES[level]}** | | | |"
        for operator in _of(level):
            rate = DEFAULT_RATES.get(operator.name)
            said = "by the mix" if rate is None else f"{rate:g}" + (" of slots" if operator.name in FILLS else "")
            severity = f"{operator.unit}: {operator.typical:g}"
            yield f"| [`{operator.name}`](#{operator.name}) | {operator.about} | {severity} | {said} |"


def _of(level: str) -> list[Operator]:
    return [operator for operator in OPERATORS.values() if operator.level == level]


def _sections() -> Iterator[str]:
    for level in LEVELS:
        yield f"### {_LEVEL_NAMES[level]}\n"
        if level == "context":
            yield f"Of the question “{_QUESTION}”, with `ada-1` as the passage that answers it.\n"
        for operator in _of(level):
            yield _entry(operator)


def _entry(operator: Operator) -> str:
    before, after = _example(operator)
    # Halves are understood by what stays in each.
    kept = 3 if operator.name == "split_chunk" else 0
    lines = difflib.unified_diff(_visible(before).split("\n"), _visible(after).split("\n"), lineterm="", n=kept)
    shown = [line for line in list(lines)[2:] if not line.startswith("@@")]
    text = "\n".join(shown)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"#### `{operator.name}`\n\n{operator.about}\n\n{fence}diff\n{text}\n{fence}\n"


def _visible(text: str) -> str:
    return text.replace("\u00a0", "⍽").replace("\u200b", "▯").replace("\u200d", "▯").replace("\u00ad", "▯").rstrip()


def _example(operator: Operator) -> tuple[str, str]:
    """Run an operator on the first sample that it changes; give the context before and after."""
    for text in (_PROSE, _MARKED, _JSON):
        for severity in (max(0.3, operator.typical), 1.0):
            before, draft = _run(operator, Passage(text, _GOLD.title, _GOLD.id, _GOLD.metadata), severity)
            if draft.edits:
                return before, _shown(draft, operator)
    msg = f"No sample shows what {operator.name} does: add one."
    raise ValueError(msg)


def _run(operator: Operator, gold: Passage, severity: float) -> tuple[str, Draft]:
    rng = random_for(8, "catalogue", operator.name)
    several = operator.name in ("order", "swapped_ids", "near_duplicate")
    draft = Draft([gold, *(_CHUNKS[3:5] if several else [])], ["gold", *(["same_topic"] * 2 if several else [])])
    before = _shown(draft, operator)
    if operator.kind == "context":
        example = read_example({"question": _QUESTION, "answers": [_ANSWER], "context": [_GOLD]})
        operator.run(draft, severity, rng, Sources(Pools(ChunkStore(_CHUNKS), example), 3, (_ANSWER,)))
    elif operator.kind == "metadata":
        for change in operator.run(gold, severity, rng, _CHUNKS):
            draft.set_field(0, operator.name, change.field, change.after)
    else:
        extra = (_CHUNKS[1].text,) if operator.kind == "neighbour" else ()
        draft.change_text(0, operator.name, operator.run(gold.text, severity, rng, *extra))
    return before, draft


def _shown(draft: Draft, operator: Operator) -> str:
    if operator.kind in ("text", "neighbour"):
        return draft.passages[0].text
    if operator.kind == "metadata":
        (passage,) = draft.passages
        return "\n".join(f"{key}: {value}" for key, value in {"title": passage.title, **passage.metadata}.items())
    if operator.name == "order":
        return " ".join(f"[{passage.id}]" for passage in draft.passages)
    whole = operator.name in ("contradiction", "outdated_version", "off_entity", "split_chunk", "near_duplicate")
    blocks = []
    for passage in draft.passages:
        date = f" ({passage.metadata.get('date')})" if operator.name == "outdated_version" else ""
        text = passage.text if whole else passage.text.split("\n")[0]
        blocks.append(f"[{passage.id}] {passage.title}{date}\n    " + text.replace("\n", "\n    "))
    return "\n".join(blocks) or "(nothing)"


if __name__ == "__main__":
    print(catalogue())
