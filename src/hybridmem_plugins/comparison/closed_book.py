"""Fine-tuning alone: the passages themselves are trained into an adapter, and no memory is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.comparison.ways import CLOSED_SYSTEM
from hybridmem_plugins.passage import Passage

COST = "cost.json"


def closed_book_rows(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """Return training rows: each passage told when its title, or its beginning, is asked about.

    Args:
        passages: What is to be learned.
    """
    rows = []
    for passage in passages:
        about = passage.title or " ".join(passage.text.split()[:8])
        prompt = [
            {"role": "system", "content": CLOSED_SYSTEM},
            {"role": "user", "content": f"What is known about {about}?"},
        ]
        rows.append({"id": str(passage.id), "prompt": prompt, "completion": passage.text})
    return rows


def train_closed_book(
    passages: Sequence[Passage],
    output: Path,
    *,
    epochs: int = 6,
    max_steps: int | None = None,
    device: str | None = None,
) -> Path:
    """Train an adapter on passages and write what it cost to `cost.json` beside it.

    Args:
        passages: What is to be learned.
        output: Folder of the adapter; one that is finished is kept as it is.
        epochs: Times each row comes.
        max_steps: Stop early, for a trial.
        device: Torch device; None picks the accelerator that is there.
    """
    from hybridmem_plugins.finetuning.trainer import TrainConfig, Trainer
    from hybridmem_plugins.generation.loading import pick_device

    if (output / COST).is_file():
        return output
    config = TrainConfig(
        rank=16, alpha=32, epochs=epochs, batch_size=4, max_length=384, kl_weight=0.0, save_dtype="float16"
    )
    rows = closed_book_rows(passages)
    started = time.perf_counter()
    result = Trainer(None, output, config, device=device).train(rows, [], max_steps=max_steps)
    cost = {
        "seconds": round(time.perf_counter() - started, 1),
        "steps": result.steps,
        "rows": len(rows),
        "epochs": epochs,
        "device": pick_device(device),
    }
    (output / COST).write_text(json.dumps(cost), encoding="utf-8")
    return output
