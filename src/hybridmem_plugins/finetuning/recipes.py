"""Named recipes: which data, which noise and which settings made a shipped adapter, so that anyone can repeat it."""

from __future__ import annotations

import random
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.examples import content_id
from hybridmem_plugins.augmentation.questions import GAP, cloze_examples
from hybridmem_plugins.augmentation.recipe import DEFAULT_RATES, FILLS
from hybridmem_plugins.extraction.sentences import sentence_spans
from hybridmem_plugins.finetuning.evaluate import HELD_OUT
from hybridmem_plugins.finetuning.instructions import instructed_prompts
from hybridmem_plugins.finetuning.replay import plain_rows
from hybridmem_plugins.finetuning.sets import read_rows, split_by_document
from hybridmem_plugins.finetuning.targets import write_target
from hybridmem_plugins.finetuning.trainer import TrainConfig
from hybridmem_plugins.passage import Passage

GAPS, GAP_REACH = "gaps", (4, 10)
"""Name of the source of made questions, and how many words on each side of the gap they keep."""

LEAST_WITHHELD = 12
"""Words that a passage must have left without its answer."""

HARDER = 3.0
"""How much likelier damage is where a passage stands alone, with nothing else to learn from."""

SNIPPET, SNIPPET_TRIES = (20, 60), 12
"""Words in a snippet, and windows to try until one holds the answer."""

AGREEMENT_PROMPTS = 200
"""Replay prompts kept from training, for measuring agreement with the base."""

MIXES: Mapping[str, Mapping[str, float]] = {
    "several": {"noisy": 0.7, "clean": 0.12, "no_gold": 0.16, "empty": 0.02},
    "one": {"noisy": 0.35, "clean": 0.15, "no_gold": 0.48, "empty": 0.02},
    "none": {"no_gold": 1.0},
}
"""Kinds of rows where a context has several passages, where it has one, and where the answer is withheld."""

ARMS = ("ours", "random", "clean")
"""Compared arms: every operator; random distractors (and missing gold) only; no noise. All else is alike."""

_SLOTS: Mapping[str, Mapping[str, float]] = {
    "hard": {"hard_negatives": 0.9, "same_topic": 0.1},
    "near": {"same_topic": 0.9, "random_irrelevant": 0.1},
    "random": {"random_irrelevant": 1.0},
    "mixed": {name: DEFAULT_RATES[name] for name in FILLS},
    "withheld": {"hard_negatives": 1.0},
}
_ADDING = ("near_duplicate", "contradiction", "outdated_version", "off_entity", "split_chunk")
"""Operators that make two passages of one: a row that is to show one passage does without."""

_TEMPLATES = ("numbered", "numbered", "numbered", "numbered", "numbered", "xml")


@dataclass(frozen=True, slots=True)
class Copy:
    """One noised copy of each question.

    Attributes:
        size: Passages in its context; where there are several, a near duplicate or a contradiction may be added.
        slots: What stands where no gold does: `hard` (what a `HybridMemory` over the training passages ranks highest),
            `near` (one of its twenty highest, at random), `random`, `mixed`, or `withheld` (the gold passage without
            the sentences that hold the answer).
        form: What passages look like, gold and others alike, so that it tells nothing: `titled` as they are,
            `untitled`, or `snippet` (untitled, and a stretch of few words, as web searches show them).
    """

    size: int
    slots: str
    form: str = "titled"

    @property
    def mix(self) -> Mapping[str, float]:
        """Shares of the kinds of rows."""
        return MIXES["none" if self.slots == "withheld" else "one" if self.size == 1 else "several"]


@dataclass(frozen=True, slots=True)
class Source:
    """One training file and how much of it to take.

    Attributes:
        file: Name in `qa/train`, without its ending; `GAPS` for questions made from the passages of all other ones.
        copies: Noised copies of each question.
        limit: Most questions, drawn at random; None for all.
    """

    file: str
    copies: tuple[Copy, ...]
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a training run needs beside the data folder and the model.

    Attributes:
        name: Its name on the command line.
        sources: Training files.
        config: Settings of the trainer.
        replay: Most general prompts that the base answers for replay.
        replay_tokens: Longest of those answers.
        replay_temperature: Their sampling's; 0 is greedy.
        plain: Most plain passages to guard.
        instructed: General prompts that the base answers under checkable instructions; the answers that follow all of
            them are learnt beside the rows, `rounds` times each. The prompts are none of those for replay.
        style: What completions look like, one of `targets.STYLES`.
        rounds: Times that all copies are made, with fresh noise each time.
        steps: Steps to train, over which the learning rate falls; None for all epochs.
    """

    name: str
    sources: tuple[Source, ...]
    config: TrainConfig
    replay: int = 2500
    replay_tokens: int = 160
    replay_temperature: float = 0.7
    plain: int = 2500
    instructed: int = 0
    style: str = "cited"
    rounds: int = 2
    steps: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "smollm2-135m-together": Recipe(
        name="smollm2-135m-together",
        sources=(
            Source(
                "nq-open-oracle",
                (
                    Copy(5, "hard"), Copy(5, "random"), Copy(3, "mixed"), Copy(4, "hard"), Copy(6, "hard"),
                    Copy(2, "mixed"),
                ),
            ),
            Source("policyqa-dev", (Copy(4, "hard"),), limit=1500),
            Source("covidqa", (Copy(2, "hard"), Copy(2, "random"))),
            Source("tatqa-dev-span", (Copy(2, "hard"),)),
        ),
        config=TrainConfig(
            rank=32, alpha=64, learning_rate=1e-3, batch_size=32, max_length=1152, kl_weight=1.0, guard_share=0.125,
            kl_tokens=1024, kl_rows=4, save_dtype="float16",
        ),
        steps=950,
    ),
    "smollm2-135m": Recipe(
        name="smollm2-135m",
        sources=(
            Source(
                "nq-open-oracle",
                (
                    Copy(1, "near"), Copy(1, "near", "untitled"), Copy(1, "near", "snippet"), Copy(1, "hard"),
                    Copy(1, "withheld"), Copy(4, "hard"), Copy(5, "mixed", "snippet"),
                ),
            ),
            Source("policyqa-dev", (Copy(1, "random"), Copy(3, "mixed")), limit=1500),
            Source(
                "covidqa",
                (Copy(1, "near"), Copy(1, "near", "untitled"), Copy(1, "withheld"), Copy(2, "hard")),
            ),
            Source("tatqa-dev-span", (Copy(1, "random"), Copy(2, "random"))),
            Source(GAPS, (Copy(1, "near"), Copy(3, "mixed", "untitled"))),
        ),
        config=TrainConfig(
            rank=32, alpha=64, learning_rate=2e-3, batch_size=64, max_length=768, kl_weight=4.0, guard_share=0.25,
            kl_tokens=2048, kl_rows=4, save_dtype="float16",
        ),
        replay_tokens=384,
        replay_temperature=0.0,
        instructed=4800,
        steps=500,
    ),
}  # fmt: skip


def get_recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        ValueError: No recipe has that name.
    """
    if name not in RECIPES:
        msg = f"Unknown recipe {name!r}. Choose one of: {', '.join(RECIPES)}."
        raise ValueError(msg)
    return RECIPES[name]


def training_rows(
    recipe: Recipe,
    data: str | Path,
    *,
    seed: int = 0,
    arm: str = "ours",
    style: str | None = None,
    search: Callable[[str], list[Passage]] | None = None,
) -> list[dict[str, Any]]:
    """Make the noised rows of a recipe.

    Documents held out for evaluation are left out, and so is what shares text with the evaluation files. A row whose
    gold was noised until its answer was gone is left out too: only rows that were given no gold teach to abstain, so
    that a hard context is never taken for an empty one.

    Args:
        recipe: What to make.
        data: Folder with `qa/train`.
        seed: Seed of noise and samples.
        arm: One of `ARMS`.
        style: One of `targets.STYLES`; None takes the recipe's.
        search: Ranks `training_passages` for a question, for hard negatives; None asks a `HybridMemory` over them.
    """
    passages = training_passages(recipe, data)
    if arm == "ours" and search is None:
        search = hard_negatives(passages)
    rows: list[dict[str, Any]] = []
    for number, source in ((number, source) for number in range(recipe.rounds) for source in recipe.sources):
        named = f"{seed} {number}"
        examples = gap_questions(passages, named) if source.file == GAPS else _examples(source, Path(data), named)
        for index, copy in enumerate(source.copies):
            noise_seed = 1000 * seed + 100 * number + index
            augmenter = NoisyContextAugmenter(noise_seed, size=copy.size, templates=_TEMPLATES, **_noise(arm, copy))
            shown = [{**row, **_shaped(row["context"], row["title"], copy.form, row["answers"])} for row in examples]
            chunks = [_shaped_passage(passage, copy.form) for passage in passages]
            found = withheld(shown) if copy.slots == "withheld" else search
            noised = augmenter.build_dataset(
                shown, chunks, retriever=found if arm == "ours" else None, validation=0.0, on_bad_row="skip",
                decontaminate=sorted(Path(data).glob("qa/eval/*.jsonl.gz")),
            )  # fmt: skip
            made = (_finished(row, f"{number}.{index}", style or recipe.style) for row in noised)
            rows += [row for row in made if row]
    return rows


def _noise(arm: str, copy: Copy) -> dict[str, Any]:
    """Return the augmenter's settings for an arm."""
    if arm not in ARMS:
        msg = f"Unknown arm {arm!r}. Choose one of: {', '.join(ARMS)}."
        raise ValueError(msg)
    if arm == "clean":
        return {"mix": {"clean": 1.0}}
    if arm == "random":
        return {"mix": copy.mix, "rates": {"random_irrelevant": 1.0, "order": 1.0}}
    more = HARDER if copy.size == 1 else 1.0
    left_out = {*FILLS, *_ADDING} if copy.size == 1 else set(FILLS)
    others = {name: min(1.0, more * rate) for name, rate in DEFAULT_RATES.items() if name not in left_out}
    return {"mix": copy.mix, "rates": {**others, **_SLOTS[copy.slots]}}


def _finished(row: Mapping[str, Any], copy: str, style: str) -> dict[str, Any] | None:
    if row["labels"]["abstain"] and row["labels"]["kind"] not in ("no_gold", "empty"):
        return None
    completion = write_target(row, style)
    if completion is None:
        return None
    shown = [{"title": passage["title"], "text": passage["text"]} for passage in row["passages"]]
    told = {"question": row["question"], "answers": row["answers"], "passages": shown}
    return {"id": f"{row['id']}/{copy}", "prompt": row["messages"][:-1], "completion": completion, **told}


def training_passages(recipe: Recipe, data: str | Path) -> list[Passage]:
    """Return all contexts of a recipe's files, each once, with an id made from its content."""
    rows = [row for source in _files(recipe) for row in _examples(replace(source, limit=None), Path(data), "")]
    distinct = {content_id(row["title"], row["context"]): row for row in rows}
    return [Passage(row["context"], row["title"] or None, key) for key, row in distinct.items()]


def _files(recipe: Recipe) -> list[Source]:
    return [source for source in recipe.sources if source.file != GAPS]


def hard_negatives(passages: Sequence[Passage]) -> Callable[[str], list[Passage]]:
    """Return what a hybrid memory over the training passages ranks highest, asked once for each question."""
    from hybridmem_plugins.hybrid_memory import HybridMemory

    memory = HybridMemory()
    memory.add(passages)
    asked: dict[str, list[Passage]] = {}

    def search(question: str) -> list[Passage]:
        if question not in asked:
            asked[question] = [hit.passage for hit in memory.search(question, k=40)]
        return asked[question]

    return search


def _shaped(text: str, title: str | None, form: str, answers: Sequence[str] = ()) -> dict[str, str | None]:
    """Return a passage's `context` and `title` in a form of `Copy`; a snippet holds an answer where the text does."""
    if form != "snippet":
        return {"context": text, "title": title if form == "titled" else None}
    rng, words = random.Random(text), text.split()
    for _ in range(SNIPPET_TRIES):
        size = rng.randint(*SNIPPET)
        start = rng.randint(0, max(0, len(words) - size))
        cut = " ".join(words[start : start + size])
        if not answers or contains_answer(cut, answers):
            return {"context": cut + rng.choice(["", " ..."]) if len(words) > size else text, "title": None}
    return {"context": text, "title": None}


def _shaped_passage(passage: Passage, form: str) -> Passage:
    shaped = _shaped(passage.text, passage.title, form)
    return replace(passage, text=str(shaped["context"]), title=shaped["title"])


def withheld(examples: Sequence[Mapping[str, Any]]) -> Callable[[str], list[Passage]]:
    """Return, for each question, its gold passages without the sentences that hold (a part of) the answer.

    Nothing looks more like a passage with the answer: a model that tells these apart has looked for the answer itself.
    """
    found: dict[str, list[Passage]] = defaultdict(list)
    for row in examples:
        text = row["context"]
        sentences = [text[start:end] for start, end in sentence_spans(text)]
        kept = " ".join(one.strip() for one in sentences if not contains_answer(one, row["answers"]))
        if len(kept.split()) >= LEAST_WITHHELD:
            name = content_id(row["title"], kept)
            found[row["question"]].append(Passage(kept, row["title"] or None, name))
    return lambda question: found.get(question, [])


def _examples(source: Source, data: Path, seed: str) -> list[dict[str, Any]]:
    examples = read_rows(data / "qa/train" / f"{source.file}.jsonl.gz")
    if source.file == "nq-open-oracle":
        examples, _ = split_by_document(examples, HELD_OUT)
    if source.limit is not None and len(examples) > source.limit:
        examples = random.Random(f"{seed} {source.file}").sample(examples, source.limit)
    return examples


def gap_questions(passages: Sequence[Passage], seed: str) -> list[dict[str, Any]]:
    """Ask each titled passage for a name or number in one of its sentences, in the words that stand around it.

    Few questions of people teach a small model little of reading; these are plain but as many as there are passages.
    """
    asked = []
    for example in cloze_examples([one for one in passages if one.title], zlib.crc32(seed.encode())):
        fact, passage = example["answers"][0], example["context"][0]
        before, _, after = example["question"].partition(": ")[2].partition(GAP)
        rng = random.Random(f"{seed} {example['id']}")
        reach = rng.randint(*GAP_REACH)
        left, right = before.split()[-reach:], after.split()[:reach]
        if any(word[0].isupper() for word in (*left[-1:], *right[:1])):
            continue  # the fact is only a part of a name
        word = "what year" if re.fullmatch("1[5-9]..|20..", fact) else "how many" if fact[0].isdigit() else "what"
        text = f"{' '.join(left)} {word} {' '.join(right)}".strip(" .,;")
        row = {"id": f"gap-{passage.id}", "question": f"{text}?", "answers": [fact]}
        asked.append({**row, "context": passage.text, "title": passage.title or ""})
    return asked


def guard_rows(
    recipe: Recipe, data: str | Path, replay: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Put replay rows and plain training passages together.

    Args:
        recipe: Says how many.
        data: Folder with `qa/train`.
        replay: Rows that `replay.answer_with_base` made.
        seed: Seed of the choice.
    """
    texts = [row["context"] for source in _files(recipe) for row in _examples(source, Path(data), f"{seed} 0")]
    return [*map(dict, replay[: recipe.replay]), *plain_rows(texts, recipe.plain, seed)]


def replay_prompts(data: str | Path, recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the general prompts to answer for replay, and those kept for measuring agreement."""
    prompts = _general_prompts(data)
    return prompts[AGREEMENT_PROMPTS:][: recipe.replay], prompts[:AGREEMENT_PROMPTS]


def instruction_prompts(data: str | Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Return general prompts with checkable instructions, for `instructions.answer_instructed`."""
    return instructed_prompts(_general_prompts(data)[AGREEMENT_PROMPTS + recipe.replay :], recipe.instructed)


def _general_prompts(data: str | Path) -> list[dict[str, Any]]:
    prompts = read_rows(Path(data) / "forgetting/replay-prompts.jsonl.gz")
    return random.Random("replay").sample(prompts, len(prompts))
