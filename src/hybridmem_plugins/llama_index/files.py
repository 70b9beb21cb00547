"""Files written in one step, on any file system."""

from __future__ import annotations

from typing import Any, TextIO
from uuid import uuid4

import fsspec  # type: ignore[import-untyped]

FileSystem = Any
"""An `fsspec.AbstractFileSystem`, which has no types."""


def write_text(path: str, text: str, fs: FileSystem | None = None) -> None:
    """Write a text file so that a crash leaves the old or the new one.

    Args:
        path: The file; its folder is made when missing.
        text: Its content.
        fs: File system; None is the local one.
    """
    system = fs or fsspec.filesystem("file")
    folder = system._parent(path)
    if folder:
        system.makedirs(folder, exist_ok=True)
    half = f"{path}.{uuid4().hex}.tmp"  # of its own: another thread may be writing the same file
    try:
        with system.open(half, "w", encoding="utf-8") as file:
            file.write(text)
        system.mv(half, path)
    except BaseException:
        if system.exists(half):
            system.rm(half)
        raise


def open_text(path: str, fs: FileSystem | None = None) -> TextIO:
    """Open a text file for reading.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file: TextIO = (fs or fsspec.filesystem("file")).open(path, "r", encoding="utf-8")
    return file
