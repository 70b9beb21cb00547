"""Every kind of noise, by name.

>>> OPERATORS["nbsp"].level
'characters'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Imported for their side effect: each module registers its operators.
from hybridmem_plugins.augmentation.operators import adversarial, characters, chunks, context, formats, metadata
from hybridmem_plugins.augmentation.operators.registry import Operator, registered

OPERATORS: Mapping[str, Operator] = registered()
"""All operators in the order of their levels' modules."""

LEVELS: Sequence[str] = ("context", "chunk", "characters", "format", "metadata", "adversarial")

__all__ = [
    "LEVELS", "OPERATORS", "Operator", "adversarial", "characters", "chunks", "context", "formats", "get_operator",
    "metadata",
]  # fmt: skip


def get_operator(name: str) -> Operator:
    """Look an operator up.

    Raises:
        ValueError: No operator has that name.
    """
    if name not in OPERATORS:
        from rapidfuzz import process

        near = process.extractOne(name, list(OPERATORS))[0]
        msg = f"Unknown noise operator {name!r}; did you mean {near!r}? All names: {', '.join(OPERATORS)}."
        raise ValueError(msg)
    return OPERATORS[name]
