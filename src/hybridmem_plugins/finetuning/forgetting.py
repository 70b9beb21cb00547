"""What a model could do before: perplexity on plain text, checkable instructions, agreement with its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning import guard as guarding
from hybridmem_plugins.finetuning.ifeval import followed
from hybridmem_plugins.finetuning.rows import RowEncoder
from hybridmem_plugins.generation.decoding import GenerationSettings
from hybridmem_plugins.generation.local_model import LocalModel
from hybridmem_plugins.line_files import keep_records


def text_losses(local: LocalModel, texts: Sequence[str], batch_size: int = 16) -> list[tuple[float, int]]:
    """Return each text's summed negative log-likelihood, in nats, and its number of predicted tokens.

    Args:
        local: The model, with the adapter to measure switched on.
        texts: Plain texts; no chat template is put around them.
        batch_size: Texts computed together.
    """
    torch = require("torch", "train")
    ids = [list(local.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    results: list[tuple[float, int]] = [(0.0, 0)] * len(ids)
    device = next(local.model.parameters()).device
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        width = max(len(ids[index]) for index in part)
        tokens = torch.tensor([ids[index] + [0] * (width - len(ids[index])) for index in part], device=device)
        mask = torch.tensor([[1] * len(ids[index]) + [0] * (width - len(ids[index])) for index in part], device=device)
        with torch.inference_mode():
            states = guarding.hidden_states(local.model, tokens)
            chosen = mask[:, 1:].bool()
            losses = torch.nn.functional.cross_entropy(
                guarding.head(local.model, states[:, :-1][chosen]), tokens[:, 1:][chosen], reduction="none"
            )
        sums = torch.split(losses, chosen.sum(dim=1).tolist())
        for index, own in zip(part, sums, strict=True):
            results[index] = (float(own.sum()), len(own))
    return results


def perplexity(losses: Sequence[tuple[float, int]]) -> float:
    """Return the perplexity over all tokens of `text_losses`.

    Raises:
        ValueError: There are no tokens.
    """
    tokens = sum(count for _, count in losses)
    if tokens == 0:
        msg = "No tokens to compute a perplexity over."
        raise ValueError(msg)
    return math.exp(sum(loss for loss, _ in losses) / tokens)


def run_ifeval(
    local: LocalModel, prompts: Sequence[Mapping[str, Any]], adapter: str, max_new_tokens: int = 640
) -> list[dict[str, Any]]:
    """Answer IFEval's prompts greedily and check each instruction.

    Args:
        local: The model.
        prompts: Rows with `key`, `prompt`, `instruction_id_list` and `kwargs`.
        adapter: Adapter to use, `"base"` for none.
        max_new_tokens: Longest reply.

    Returns:
        For each prompt `key`, `followed` (one bool for each instruction) and `reply`.
    """
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    ids = [local.encode([{"role": "user", "content": row["prompt"]}]) for row in prompts]
    replies = local.generate_ids(ids, settings, adapter)
    return [
        {
            "key": row["key"],
            "followed": followed(reply.text, row["instruction_id_list"], row["kwargs"]),
            "reply": reply.text,
        }
        for row, reply in zip(prompts, replies, strict=True)
    ]


def keep_ifeval(
    local: LocalModel,
    prompts: Sequence[Mapping[str, Any]],
    adapter: str,
    file: Path,
    run: Sequence[Any] = (),
    *,
    resume: bool = True,
) -> list[dict[str, Any]]:
    """Do as `run_ifeval`, writing the records as they come; see `evaluate.keep_items`."""
    return keep_records(
        file,
        [([*run, row], row) for row in prompts],
        lambda some: run_ifeval(local, some, adapter),
        at_once=4 * local.batch_size,
        resume=resume,
    )


def agreement(local: LocalModel, rows: Sequence[Mapping[str, Any]], batch_size: int = 16) -> list[dict[str, float]]:
    """Compare the tuned model with its base, token by token, on the base's own answers.

    Args:
        local: A model with one adapter, on and not merged.
        rows: Each with `prompt` and the base's `completion`.
        batch_size: Rows computed together.

    Returns:
        For each row `same` (share of answer positions with the same likeliest token) and `kl` (nats, mean).
    """
    torch = require("torch", "train")
    encoder, results = RowEncoder(local.tokenizer, 1024), []
    device = next(local.model.parameters()).device
    for start in range(0, len(rows), batch_size):
        part = [encoder.encode(row) for row in rows[start : start + batch_size]]
        width = max(len(row.input_ids) for row in part)
        tokens = torch.tensor([row.input_ids + [0] * (width - len(row.input_ids)) for row in part], device=device)
        labels = torch.tensor([row.labels + [-100] * (width - len(row.labels)) for row in part], device=device)
        with torch.inference_mode():
            tuned = guarding.hidden_states(local.model, tokens)
            with guarding.without_adapter(local.model):
                base = guarding.hidden_states(local.model, tokens)
            for position in range(len(part)):
                chosen = labels[position, 1:] != -100
                own = guarding.head(local.model, tuned[position, :-1][chosen]).log_softmax(-1)
                reference = guarding.head(local.model, base[position, :-1][chosen]).log_softmax(-1)
                kl = (reference.exp() * (reference - own)).sum(-1).mean()
                same = (own.argmax(-1) == reference.argmax(-1)).float().mean()
                results.append({"same": float(same), "kl": float(kl)})
    return results
