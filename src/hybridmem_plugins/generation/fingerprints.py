"""What tells a model with its adapter from others, for replies that are kept between runs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from hybridmem_plugins.generation.loading import adapter_caution, adapter_reading, resolve_adapter
from hybridmem_plugins.generation.local_model import BASE


def fingerprint(model: str, adapter: str | Path) -> str:
    """Return a short text that changes with a model's name and an adapter's weights."""
    if str(adapter) == BASE:
        return f"{model}|{BASE}"
    weights = Path(resolve_adapter(adapter)) / "adapter_model.safetensors"
    told = hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else "hub"
    weights_of_reading = adapter_reading(adapter)
    reading = (
        "together"
        if weights_of_reading is None
        else "each " + ", ".join(f"{value:g}" for value in asdict(weights_of_reading).values())
    )
    return f"{model}|{Path(str(adapter)).name}|{told}|caution {adapter_caution(adapter):g}|read {reading}"
