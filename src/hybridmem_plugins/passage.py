"""The unit that every stage of the package handles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEEPEST_METADATA = 32
"""Levels that metadata may be nested."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text with an identity.

    Attributes:
        text: What the passage says; neither empty nor only whitespace.
        title: What the passage is about. Passages may share a title (the chunks of one document).
        id: Unique in a memory. When None, `HybridMemory.add` derives one from title, text and metadata.
        metadata: Plain JSON values that filters select on and that come back with every hit.
    """

    text: str
    title: str | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
