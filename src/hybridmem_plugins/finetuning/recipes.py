"""Named recipes: which data, which noise and which settings made a shipped adapter, so that anyone can repeat it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
from hybridmem_plugins.finetuning.evaluate import HELD_OUT
from hybridmem_plugins.finetuning.replay import plain_rows
from hybridmem_plugins.finetuning.sets import read_rows, split_by_document
from hybridmem_plugins.finetuning.trainer import TrainConfig

AGREEMENT_PROMPTS = 200
"""Replay prompts kept from training, for measuring agreement with the base."""

OURS: Mapping[str, float] = {"noisy": 0.62, "clean": 0.15, "no_gold": 0.2, "empty": 0.03}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "ours": {"mix": OURS},
    "random": {"mix": OURS, "rates": {"random_irrelevant": 1.0, "order": 1.0}},
    "clean": {"mix": {"clean": 1.0}},
}
"""Noise of the compared arms: every operator; random distractors (and missing gold) only; none. All else is alike."""


@dataclass(frozen=True, slots=True)
class Source:
    """One training file and how much of it to take.

    Attributes:
        file: Name in `qa/train`, without its ending.
        sizes: Passages in the contexts of each noised copy; there is one copy for each entry.
        limit: Most questions, drawn at random; None for all.
    """

    file: str
    sizes: tuple[int, ...]
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
    """

    name: str
    sources: tuple[Source, ...]
    config: TrainConfig
    replay: int = 2500
    replay_tokens: int = 160
    plain: int = 2500


RECIPES: Mapping[str, Recipe] = {
    "smollm2-135m": Recipe(
        name="smollm2-135m",
        sources=(
            Source("nq-open-oracle", (5, 3, 5, 4)),
            Source("policyqa-dev", (5,), limit=1000),
            Source("covidqa", (2,)),
            Source("tatqa-dev-span", (2,)),
        ),
        config=TrainConfig(
            rank=24, alpha=48, learning_rate=5e-4, batch_size=32, max_length=1536, kl_weight=2.0, guard_share=0.25,
            save_dtype="float16",
        ),
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


def training_rows(recipe: Recipe, data: str | Path, *, seed: int = 0, arm: str = "ours") -> list[dict[str, Any]]:
    """Make the noised rows of a recipe.

    Documents held out for evaluation are left out, and so is what shares text with the evaluation files.

    Args:
        recipe: What to make.
        data: Folder with `qa/train`.
        seed: Seed of noise and samples.
        arm: Key in `ARMS`.
    """
    rows: list[dict[str, Any]] = []
    evaluation_files = sorted(Path(data).glob("qa/eval/*.jsonl.gz"))
    for source in recipe.sources:
        examples = _examples(source, Path(data), seed)
        chunks = [{"text": row["context"], "title": row["title"]} for row in examples]
        for copy, size in enumerate(source.sizes):
            augmenter = NoisyContextAugmenter(seed=1000 * seed + copy, size=size, **ARMS[arm])
            noised = augmenter.build_dataset(
                examples, chunks, validation=0.0, on_bad_row="skip", decontaminate=evaluation_files
            )
            rows += [
                {"id": f"{row['id']}/{copy}", "messages": row["messages"], "completion": row["completion"]}
                for row in noised
            ]
    return rows


def _examples(source: Source, data: Path, seed: int) -> list[dict[str, Any]]:
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
    texts = [row["context"] for source in recipe.sources for row in _examples(source, Path(data), seed)]
    return [*map(dict, replay[: recipe.replay]), *plain_rows(texts, recipe.plain, seed)]


def replay_prompts(data: str | Path, recipe: Recipe) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the general prompts to answer for replay, and those kept for measuring agreement."""
    prompts = read_rows(Path(data) / "forgetting/replay-prompts.jsonl.gz")
    prompts = random.Random("replay").sample(prompts, len(prompts))
    return prompts[AGREEMENT_PROMPTS:][: recipe.replay], prompts[:AGREEMENT_PROMPTS]
