"""Named recipes: which data, which noise and which settings made a shipped adapter, so that anyone can repeat it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.augmentation.examples import content_id
from hybridmem_plugins.augmentation.recipe import DEFAULT_RATES, FILLS
from hybridmem_plugins.finetuning.evaluate import HELD_OUT
from hybridmem_plugins.finetuning.replay import plain_rows
from hybridmem_plugins.finetuning.sets import read_rows, split_by_document
from hybridmem_plugins.finetuning.targets import write_target
from hybridmem_plugins.finetuning.trainer import TrainConfig
from hybridmem_plugins.passage import Passage

AGREEMENT_PROMPTS = 200
"""Replay prompts kept from training, for measuring agreement with the base."""

MIX: Mapping[str, float] = {"noisy": 0.7, "clean": 0.12, "no_gold": 0.16, "empty": 0.02}
ARMS = ("ours", "random", "clean")
"""Compared arms: every operator; random distractors (and missing gold) only; no noise. All else is alike."""

_SLOTS: Mapping[str, Mapping[str, float]] = {
    "hard": {"hard_negatives": 0.9, "same_topic": 0.1},
    "random": {"random_irrelevant": 1.0},
    "mixed": {name: DEFAULT_RATES[name] for name in FILLS},
}
_TEMPLATES = ("numbered", "numbered", "numbered", "numbered", "numbered", "xml")


@dataclass(frozen=True, slots=True)
class Source:
    """One training file and how much of it to take.

    Attributes:
        file: Name in `qa/train`, without its ending.
        copies: Noised copies of each question: the passages in its context and what fills the free places (`hard`:
            what a `HybridMemory` over the training passages ranks highest; `random`; `mixed`).
        limit: Most questions, drawn at random; None for all.
    """

    file: str
    copies: tuple[tuple[int, str], ...]
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
        plain: Most plain passages to guard.
        style: What completions look like, one of `targets.STYLES`.
        rounds: Times that all copies are made, with fresh noise each time.
        steps: Steps to train, over which the learning rate falls; None for all epochs.
    """

    name: str
    sources: tuple[Source, ...]
    config: TrainConfig
    replay: int = 2500
    replay_tokens: int = 160
    plain: int = 2500
    style: str = "cited"
    rounds: int = 2
    steps: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "smollm2-135m": Recipe(
        name="smollm2-135m",
        sources=(
            Source(
                "nq-open-oracle",
                ((5, "hard"), (5, "random"), (3, "mixed"), (4, "hard"), (6, "hard"), (2, "mixed")),
            ),
            Source("policyqa-dev", ((4, "hard"),), limit=1500),
            Source("covidqa", ((2, "hard"), (2, "random"))),
            Source("tatqa-dev-span", ((2, "hard"),)),
        ),
        config=TrainConfig(
            rank=32, alpha=64, learning_rate=1e-3, batch_size=32, max_length=1152, kl_weight=1.0, guard_share=0.125,
            kl_tokens=1024, kl_rows=4,
            save_dtype="float16",
        ),
        steps=950,
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
        examples = _examples(source, Path(data), f"{seed} {number}")
        for copy, (size, slots) in enumerate(source.copies):
            noise_seed = 1000 * seed + 100 * number + copy
            augmenter = NoisyContextAugmenter(noise_seed, size=size, templates=_TEMPLATES, **_noise(arm, slots))
            noised = augmenter.build_dataset(
                examples, passages, retriever=search if arm == "ours" else None, validation=0.0, on_bad_row="skip",
                decontaminate=sorted(Path(data).glob("qa/eval/*.jsonl.gz")),
            )  # fmt: skip
            made = (_finished(row, f"{number}.{copy}", style or recipe.style) for row in noised)
            rows += [row for row in made if row]
    return rows


def _noise(arm: str, slots: str) -> dict[str, Any]:
    """Return the augmenter's settings for an arm."""
    if arm not in ARMS:
        msg = f"Unknown arm {arm!r}. Choose one of: {', '.join(ARMS)}."
        raise ValueError(msg)
    if arm == "clean":
        return {"mix": {"clean": 1.0}}
    if arm == "random":
        return {"mix": MIX, "rates": {"random_irrelevant": 1.0, "order": 1.0}}
    others = {name: rate for name, rate in DEFAULT_RATES.items() if name not in FILLS}
    return {"mix": MIX, "rates": {**others, **_SLOTS[slots]}}


def _finished(row: Mapping[str, Any], copy: str, style: str) -> dict[str, Any] | None:
    if row["labels"]["abstain"] and row["labels"]["kind"] not in ("no_gold", "empty"):
        return None
    completion = write_target(row, style)
    if completion is None:
        return None
    return {"id": f"{row['id']}/{copy}", "prompt": row["messages"][:-1], "completion": completion}


def training_passages(recipe: Recipe, data: str | Path) -> list[Passage]:
    """Return all contexts of a recipe's files, each once, with an id made from its content."""
    rows = [row for source in recipe.sources for row in _examples(replace(source, limit=None), Path(data), "")]
    distinct = {content_id(row["title"], row["context"]): row for row in rows}
    return [Passage(row["context"], row["title"] or None, key) for key, row in distinct.items()]


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


def _examples(source: Source, data: Path, seed: str) -> list[dict[str, Any]]:
    examples = read_rows(data / "qa/train" / f"{source.file}.jsonl.gz")
    if source.file == "nq-open-oracle":
        examples, _ = split_by_document(examples, HELD_OUT)
    if source.limit is not None and len(examples) > source.limit:
        examples = random.Random(f"{seed} {source.file}").sample(examples, source.limit)
    return examples


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
    texts = [row["context"] for source in recipe.sources for row in _examples(source, Path(data), f"{seed} 0")]
    return [*map(dict, replay[: recipe.replay]), *plain_rows(texts, recipe.plain, seed)]


def replay_prompts(data: str | Path, recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the general prompts to answer for replay, and those kept for measuring agreement."""
    prompts = read_rows(Path(data) / "forgetting/replay-prompts.jsonl.gz")
    prompts = random.Random("replay").sample(prompts, len(prompts))
    return prompts[AGREEMENT_PROMPTS:][: recipe.replay], prompts[:AGREEMENT_PROMPTS]
