"""JSON lines that are appended to, and read again after a kill left half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def append_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records to the end of a file, which is made where it is not there; half a line before them stays alone."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    with file.open("ab") as appended:
        appended.write(b"\n" + text if _torn(file) else text)


def _torn(file: Path) -> bool:
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as written:
        written.seek(-1, os.SEEK_END)
        return written.read() != b"\n"


def read_lines(file: Path) -> Iterator[Any]:
    """Yield the records of a file, passing over what a kill has torn; none where there is no file."""
    if file.is_file():
        for line in file.read_bytes().split(b"\n"):
            with suppress(ValueError):  # It may be cut inside a character.
                yield json.loads(line)
