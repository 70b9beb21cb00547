"""What tells a model with its adapter from others, for replies that are kept between runs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from hybridmem_plugins.generation.loading import adapter_caution, adapter_reading, adapter_verifier, resolve_adapter
from hybridmem_plugins.generation.local_model import BASE
from hybridmem_plugins.generation.settling import ReadingWeights


def fingerprint(model: str, adapter: str | Path) -> str:
    """Return a short text that changes with a model's name, an adapter's weights and those of its verifier."""
    if str(adapter) == BASE:
        return f"{model}|{BASE}"
    folder = Path(resolve_adapter(adapter))
    told = [f"{model}|{Path(str(adapter)).name}|{_digest(folder)}|caution {adapter_caution(adapter):g}"]
    reading, verifier = adapter_reading(adapter), adapter_verifier(adapter)
    told.append(f"read each {_numbers(reading)}" if reading else "read together")
    if verifier:
        told.append(f"verified by {_digest(verifier[0])} {_numbers(verifier[1])}")
    return "|".join(told)


def _digest(folder: Path) -> str:
    weights = folder / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12] if weights.is_file() else "hub"


def _numbers(weights: ReadingWeights) -> str:
    return ", ".join(f"{value:g}" for value in asdict(weights).values())
