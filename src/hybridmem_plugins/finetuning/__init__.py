"""Fine-tuning: a noisy dataset becomes an adapter, with its report. Names are loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridmem_plugins.finetuning.blending import blend
    from hybridmem_plugins.finetuning.recipes import RECIPES, get_recipe
    from hybridmem_plugins.finetuning.trainer import TrainConfig, Trainer, TrainResult

_HOMES = {
    "RECIPES": "recipes", "get_recipe": "recipes", "TrainConfig": "trainer", "TrainResult": "trainer",
    "Trainer": "trainer", "blend": "blending",
}  # fmt: skip

__all__ = ["RECIPES", "TrainConfig", "TrainResult", "Trainer", "blend", "get_recipe"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins.finetuning' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"hybridmem_plugins.finetuning.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
