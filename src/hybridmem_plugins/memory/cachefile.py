"""Writing a group of files so that a crash leaves the old group or the new one, and reading only whole ones."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridmem_plugins.errors import MemoryFormatError

FORMAT = 1

Arrays = dict[str, NDArray[Any]]


def save_cache(
    folder: Path,
    name: str,
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    files: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write arrays and files, then a sidecar `NAME.json` that names them with their checksums.

    The data files get fresh names; replacing the sidecar switches from the old group to the new one in one step.

    Args:
        folder: Existing folder.
        name: What the group is called.
        header: JSON values for the reader.
        arrays: Written as one `.npz`.
        files: Functions that write one further file each.
    """
    edition = secrets.token_hex(4)
    entries: dict[str, dict[str, Any]] = {}

    def write(key: str, suffix: str, writer: Callable[[Path], None]) -> None:
        file = folder / f"{name}-{edition}-{key}{suffix}"
        writer(file)
        _sync(file)
        entries[key] = {"file": file.name, "bytes": file.stat().st_size, "crc32": _checksum(file)}

    try:
        write("arrays", ".npz", lambda file: np.savez(file, **dict(arrays)))  # type: ignore[arg-type]
        for key, writer in (files or {}).items():
            write(key, ".bin", writer)
        sidecar = folder / f"{name}-{edition}.tmp"
        sidecar.write_text(json.dumps({"format": FORMAT, "header": dict(header), "files": entries}), encoding="utf-8")
        _sync(sidecar)
        sidecar.replace(folder / f"{name}.json")
    finally:
        remove_leftovers(folder, name)
    _sync(folder)


def load_cache(folder: Path, name: str) -> tuple[dict[str, Any], Arrays, dict[str, Path]]:
    """Read what `save_cache` wrote.

    Returns:
        The header, the arrays, and the paths of the further files.

    Raises:
        MemoryFormatError: A file is missing, has another length or checksum, or is of another format.
    """
    sidecar = folder / f"{name}.json"
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            msg = f"{sidecar} has format {content['format']}, not {FORMAT}"
            raise MemoryFormatError(msg)
        paths: dict[str, Path] = {}
        for key, entry in content["files"].items():
            paths[key] = folder / Path(entry["file"]).name
            if paths[key].stat().st_size != entry["bytes"] or _checksum(paths[key]) != entry["crc32"]:
                msg = f"{paths[key]} is damaged"
                raise MemoryFormatError(msg)
        with np.load(paths.pop("arrays"), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError as error:
        msg = f"{error.filename or sidecar} is missing"
        raise MemoryFormatError(msg) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        msg = f"{sidecar} is damaged: {error}"
        raise MemoryFormatError(msg) from error
    return content["header"], arrays, paths


def discard_cache(folder: Path, name: str) -> None:
    """Let a group be found no more, where the folder can be written."""
    with suppress(OSError):
        (folder / f"{name}.json").unlink()


def remove_leftovers(folder: Path, name: str) -> None:
    """Delete data files of a group that its sidecar does not name."""
    try:
        entries = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["files"].values()
        kept = {entry["file"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = set()
    for file in folder.glob(f"{name}-*"):
        if file.name not in kept:
            file.unlink(missing_ok=True)


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
