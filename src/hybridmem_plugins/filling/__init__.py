"""Filling a memory with many workers: they read and embed, one process stores."""

from hybridmem_plugins.filling.fill import ENGINES, fill
from hybridmem_plugins.filling.work import Work

__all__ = ["ENGINES", "Work", "fill"]
