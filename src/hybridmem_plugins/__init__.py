"""Style and robust reasoning in the weights, substance in an external memory.

The names below are loaded on first use, so that importing the package stays fast and pulls in no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hybridmem_plugins.passage import Passage

_HOMES = {
    "Passage": "hybridmem_plugins.passage",
}

__all__ = ["Passage", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'hybridmem_plugins' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
