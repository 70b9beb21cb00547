"""JSON lines that are appended to, and read again after a kill left half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")


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


def write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of records anew, all or none, with the folder where it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    append_lines(part, records)
    part.replace(file)


def keep_records(
    file: Path,
    items: Sequence[tuple[Any, Item]],
    make: Callable[[list[Item]], Sequence[Mapping[str, Any]]],
    *,
    at_once: int,
    resume: bool = True,
) -> list[dict[str, Any]]:
    """Make a record of every item, writing them as they come, and go on where a kill stopped.

    Args:
        file: Records, each with a digest of what it is `made_from`; those of other runs are dropped.
        items: What to make records of, each after what tells its record from others, as plain JSON.
        make: Makes the records of some items.
        at_once: Most items that `make` is given.
        resume: Take over what the file holds; False begins anew.
    """
    keys = [hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24] for told, _ in items]
    kept = {record.get("made_from"): record for record in read_lines(file)} if resume else {}
    done = {key: kept[key] for key in keys if key in kept}
    write_lines(file, done.values())
    waiting = [(key, item) for key, (_, item) in zip(keys, items, strict=True) if key not in done]
    for start in range(0, len(waiting), at_once):
        part = waiting[start : start + at_once]
        made = make([item for _, item in part])
        records = [{**record, "made_from": key} for (key, _), record in zip(part, made, strict=True)]
        append_lines(file, records)
        done.update((record["made_from"], record) for record in records)
    return [done[key] for key in keys]
