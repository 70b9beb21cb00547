"""Errors that name what went wrong and what to do about it."""

from __future__ import annotations

import importlib
from types import ModuleType


class HybridMemoryError(Exception):
    """Base of every error that is not plain bad input (which raises `ValueError` or `TypeError`)."""


class MemoryFormatError(HybridMemoryError):
    """A folder or file is no memory, is damaged, or was written by a newer version."""


class MemoryLockedError(HybridMemoryError):
    """Another process kept the write lock for longer than the timeout."""


class EngineError(HybridMemoryError):
    """A database behind a memory cannot be reached, refuses, or does not answer in time; nothing half is stored."""


class EmbedderMismatchError(HybridMemoryError, ValueError):
    """The embedder differs from the one that made the stored vectors."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra installs it.

    Args:
        module: Dotted name of the module to import.
        extra: Extra of this package that installs the module.

    Raises:
        ImportError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        msg = f"'{module}' is not installed. Install it with: pip install 'hybridmem-plugins[{extra}]'"
        raise ImportError(msg, name=module) from error
