"""Train the verifier of a recipe's answers: an adapter that tells right answers from wrong ones.

It learns from a reader's own mistakes (arXiv 2110.14168), and they must be those of questions never seen: two readers,
each trained on one half of the questions, answer the other half.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hybridmem_plugins.augmentation.answers import contains_answer
from hybridmem_plugins.augmentation.templates import is_abstention, read_reply
from hybridmem_plugins.finetuning.rows import IGNORED, EncodedRow, RowEncoder, fitting_rows
from hybridmem_plugins.finetuning.trainer import TrainConfig, Trainer, TrainResult
from hybridmem_plugins.generation import loading
from hybridmem_plugins.generation.local_model import LocalModel
from hybridmem_plugins.generation.reading import open_passages
from hybridmem_plugins.generation.verifying import Opened, find_candidates, verifying_prompt
from hybridmem_plugins.passage import Passage


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """How to train a verifier.

    Attributes:
        reader_steps: Steps that each half's reader is trained for, without guard.
        contexts: Most passages that each reader answers from.
        steps: Steps of the verifier.
        learning_rate: Of the verifier.
        longest: Tokens that a row of the verifier may have.
    """

    reader_steps: int = 250
    contexts: int = 9000
    steps: int = 500
    learning_rate: float = 1e-3
    longest: int = 700


VERIFIERS: Mapping[str, tuple[str, VerifierConfig]] = {"smollm2-135m-verifier": ("smollm2-135m", VerifierConfig())}
"""Recipes of verifiers: the recipe of their reader, and how they are trained."""


def half_of(row: Mapping[str, Any]) -> int:
    """Return which half of the questions a recipe's row belongs to, 0 or 1; all copies of a question to the same."""
    return zlib.crc32(row["id"].rpartition("/")[0].encode()) % 2


def single_contexts(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of `recipes.training_rows` that show one passage, each question with the same passage once."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in rows:
        if len(row["passages"]) == 1:
            found.setdefault((row["question"], *row["passages"][0].values()), row)
    return list(found.values())


def is_right(row: Mapping[str, Any], answer: str) -> bool:
    """Tell whether an answer to a row's question is right; none is where the passage does not hold it."""
    return not is_abstention(row["completion"]) and contains_answer(answer, row["answers"])


def answer_contexts(local: LocalModel, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Opened, list[str]]]:
    """Return what a reader's default adapter makes of rows of one passage: up to four answers of each."""
    asked = [(row["question"], [Passage(row["passages"][0]["text"], row["passages"][0]["title"])]) for row in rows]
    opened = open_passages(local, asked, adapter=local.default_adapter, max_new_tokens=24)
    found = find_candidates(local, opened, local.default_adapter)
    return [(one, [candidate.text for candidate in own]) for one, own in zip(opened, found, strict=True)]


def verifier_rows(
    tokenizer: Any, answered: Iterable[tuple[Mapping[str, Any], Opened, Sequence[str]]], longest: int
) -> list[EncodedRow]:
    """Make the rows that teach to say Yes or No to answers: of each passage a right one and up to two wrong ones.

    Args:
        tokenizer: The model's.
        answered: Rows with what a reader that never saw their questions makes of them.
        longest: Tokens that a row may have.
    """
    encoder, made = RowEncoder(tokenizer, longest), list[EncodedRow]()
    yes, no = (encoder.tokens(word)[0] for word in ("Yes", "No"))
    for row, opened, replies in answered:
        told = [(reply, is_right(row, read_reply(reply).answer)) for reply in replies if read_reply(reply).answer]
        right, wrong = [one for one in told if one[1]], [one for one in told if not one[1]]
        for reply, good in right[:1] + wrong[: 1 if is_abstention(row["completion"]) else 2]:
            prompt = verifying_prompt(tokenizer, encoder.tokens, opened, reply, "numbered")
            target = [yes if good else no, encoder.end]
            if len(prompt) + len(target) <= longest:
                guard = [0] * (len(prompt) + len(target))
                made.append(EncodedRow(prompt + target, [IGNORED] * len(prompt) + target, guard))
    return made


def train_verifier(
    rows: Sequence[Mapping[str, Any]],
    output: str | Path,
    reader: TrainConfig,
    config: VerifierConfig | None = None,
    *,
    model: str | Path | None = None,
    max_steps: int | None = None,
    device: str | None = None,
    resume: bool = True,
) -> TrainResult:
    """Train two readers on a half of the questions each, and a verifier on their answers to the other half's.

    The readers lie in `output/half0` and `output/half1`.

    Args:
        rows: Of `recipes.training_rows`.
        output: Folder for the verifier; as `verifier/` in its reader's folder, it is loaded with it.
        reader: How readers of these rows are trained.
        config: How the verifier is trained.
        model: Hub id, folder or `.gguf` file; None is the bundled one.
        max_steps: Stop every training early, for a trial, and answer as many passages as are trained on.
        device: Torch device; None picks the accelerator that is there.
        resume: Take a reader that is there already, trained alike, and go on from checkpoints; False begins anew.

    Raises:
        ValueError: A half has no rows, or none of one passage.
    """
    config, output = config or VerifierConfig(), Path(output)
    halves = [[row for row in rows if half_of(row) == half] for half in range(2)]
    singles = [single_contexts(own) for own in halves]
    if not all(singles):
        msg = "A verifier needs rows of one passage from many questions: a half of them has none."
        raise ValueError(msg)
    contexts = min(config.contexts, (max_steps or config.contexts) * reader.batch_size)
    made: list[EncodedRow] = []
    for half, own in enumerate(halves):
        folder = output / f"half{half}"
        _train_reader(own, folder, reader, max_steps or config.reader_steps, model, device, resume=resume)
        others = _drawn(singles[1 - half], contexts, reader.seed)
        local = LocalModel(model, adapter=folder, device=device, batch_size=reader.batch_size)
        told = zip(others, answer_contexts(local, others), strict=True)
        made += verifier_rows(local.tokenizer, ((row, *one) for row, one in told), config.longest)
    if not made:
        msg = f"The readers gave no answer that fits into {config.longest} tokens together with its passage."
        raise ValueError(msg)
    steps = max_steps or config.steps
    own_config = replace(
        reader, kl_weight=0.0, learning_rate=config.learning_rate, max_length=config.longest,
        epochs=-(-reader.batch_size * steps // len(made)),
    )  # fmt: skip
    return Trainer(model, output, own_config, device=device).train(made, max_steps=steps, resume=resume)


def _train_reader(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    reader: TrainConfig,
    steps: int,
    model: str | Path | None,
    device: str | None,
    *,
    resume: bool,
) -> None:
    """Train on some rows for some steps, without guard: what the reader forgets does not matter."""
    taken = _drawn(rows, reader.batch_size * steps, reader.seed)
    encoded, _ = fitting_rows(taken, loading.load_tokenizer(model), reader.max_length)
    config = replace(reader, kl_weight=0.0, epochs=-(-reader.batch_size * steps // max(1, len(encoded))))
    note = folder / "training.json"
    if resume and note.is_file():
        told = json.loads(note.read_text(encoding="utf-8"))
        if [told["config"], told["steps"], told["rows"]] == [asdict(config), steps, len(encoded)]:
            return
    Trainer(model, folder, config, device=device).train(encoded, max_steps=steps, resume=resume)


def _drawn(rows: Sequence[Mapping[str, Any]], count: int, seed: int) -> list[Mapping[str, Any]]:
    return random.Random(seed).sample(rows, min(len(rows), count))
