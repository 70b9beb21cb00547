"""From clean context to labelled noisy context."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
    from hybridmem_plugins.augmentation.profile import NoiseProfile

_HOMES = {
    "NoiseProfile": "hybridmem_plugins.augmentation.profile",
    "NoisyContextAugmenter": "hybridmem_plugins.augmentation.augmenter",
}

__all__ = ["NoiseProfile", "NoisyContextAugmenter"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the trainer and the model wrappers need the templates alone.
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins.augmentation' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOMES[name]), name)
