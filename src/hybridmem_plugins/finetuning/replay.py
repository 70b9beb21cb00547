"""Guard rows, which hold a tuned model to its base: the base's own answers to general prompts, and plain text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.generation.fingerprints import fingerprint
from hybridmem_plugins.generation.local_model import BASE, LocalModel
from hybridmem_plugins.line_files import keep_records


def base_replies(
    local: LocalModel,
    prompts: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int = 0,
    file: Path | None = None,
    resume: bool = True,
) -> list[dict[str, Any]]:
    """Let the base answer prompts; each reply depends on its own prompt and the settings alone.

    Args:
        local: A model; its adapters are switched off.
        prompts: Rows with `prompt` (text).
        max_new_tokens: Longest answer.
        temperature: Of the sampling; 0 is greedy.
        seed: Seed of the sampling.
        file: JSON lines that keep the replies as they come, so that a run that was killed goes on; None keeps none.
        resume: Take over what the file holds; False begins anew.

    Returns:
        For each prompt `text` and `finish_reason` (`"stop"` or `"length"`).
    """
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": 0.95,
        "top_k": 50,
        "seed": seed,
    }

    def answer(some: Sequence[str]) -> list[dict[str, Any]]:
        replies = local.generate([_chat(prompt) for prompt in some], adapter=BASE, **settings)
        return [{"text": reply.text, "finish_reason": reply.finish_reason} for reply in replies]

    asked = [str(row["prompt"]) for row in prompts]
    if file is None:
        return answer(asked)
    run = [fingerprint(local.name, BASE), settings]
    items = [([*run, prompt], prompt) for prompt in asked]
    return keep_records(file, items, answer, at_once=4 * local.batch_size, resume=resume)


def _chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def answer_with_base(
    local: LocalModel,
    prompts: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 160,
    temperature: float = 0.7,
    seed: int = 0,
    file: Path | None = None,
    resume: bool = True,
) -> list[dict[str, Any]]:
    """Let the base answer prompts, for replay; see `base_replies`.

    Returns:
        Rows with `id`, `prompt` (messages) and `completion`, blank answers left out.
    """
    replies = base_replies(
        local, prompts, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, file=file, resume=resume
    )
    return [answered(row, reply) for row, reply in zip(prompts, replies, strict=True) if reply["text"].strip()]


def answered(row: Mapping[str, Any], reply: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row with `id`, `prompt` (messages) and `completion` of a prompt and one of `base_replies`."""
    return {"id": row["id"], "prompt": _chat(str(row["prompt"])), "completion": reply["text"]}


def plain_rows(texts: Iterable[str], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw distinct texts as guard rows.

    Args:
        texts: Plain passages, such as the training contexts.
        count: Most rows.
        seed: Seed of the choice.
    """
    distinct = sorted({text for text in texts if text.strip()})
    chosen = random.Random(seed).sample(distinct, min(count, len(distinct)))
    return [{"id": f"plain-{number}", "text": text} for number, text in enumerate(chosen)]
