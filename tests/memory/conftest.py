"""Fixtures of the memory room."""

from memory_helpers import open_store

__all__ = ["open_store"]
