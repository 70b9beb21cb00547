"""Guard rows, which hold a tuned model to its base: the base's own answers to general prompts, and plain text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hybridmem_plugins.generation.local_model import BASE, LocalModel


def answer_with_base(
    local: LocalModel,
    prompts: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int = 160,
    temperature: float = 0.7,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Let the base answer prompts, for replay.

    Args:
        local: A model; its adapters are switched off.
        prompts: Rows with `id` and `prompt` (text).
        max_new_tokens: Longest answer.
        temperature: Of the sampling; 0 is greedy.
        seed: Seed of the sampling.

    Returns:
        Rows with `id`, `prompt` (messages) and `completion`.
    """
    chats = [[{"role": "user", "content": str(row["prompt"])}] for row in prompts]
    replies = local.generate(
        chats, adapter=BASE, max_new_tokens=max_new_tokens, temperature=temperature, top_p=0.95, top_k=50, seed=seed
    )
    return [
        {"id": row["id"], "prompt": chat, "completion": reply.text}
        for row, chat, reply in zip(prompts, chats, replies, strict=True)
        if reply.text.strip()
    ]


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
