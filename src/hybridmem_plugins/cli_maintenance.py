"""Commands that look after a memory: `hybridmem check | export | import | delete | compact`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from hybridmem_plugins.cli import BATCH, existing_folder, folder, parse_filter
from hybridmem_plugins.errors import MemoryFormatError

STANDARD = Path("-")
"""Stands for the standard input or output where a file is named."""


def readable_file(text: str) -> Path:
    """Turn the text of a parameter into the path of a file to read, or into `STANDARD`.

    Raises:
        typer.BadParameter: A folder, or nothing of that name.
    """
    if Path(text) == STANDARD:
        return STANDARD
    if not os.path.exists(text):
        msg = f"{text} does not exist"
        raise typer.BadParameter(msg)
    if os.path.isdir(text):
        msg = f"{text} is a folder, and a file is needed"
        raise typer.BadParameter(msg)
    return Path(text)


Folder = Annotated[Path, typer.Argument(metavar="DIR", parser=existing_folder, help="Folder of the memory.")]


def check(folder: Folder) -> None:
    """Verify a memory: the file, every passage, and that all indexes hold just what is stored."""
    with _opened(folder, read_only=None) as store:
        report = store.check()
    for problem in report.problems:
        typer.echo(f"Problem: {problem}", err=True)
    if report.problems:
        typer.echo(f"What can still be read: hybridmem export {folder} FILE", err=True)
        raise typer.Exit(1)
    typer.echo(f"{folder} is whole: {report.passages:,} passages, {report.version:,} changes so far.")


def export(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; left out or -, standard output.")] = STANDARD,
    vectors: Annotated[bool, typer.Option("--vectors", help="Add the vectors.")] = False,
) -> None:
    """Write all passages as JSON lines with id, title, text and metadata; of a damaged memory, what can be read."""
    target: Path | IO[str] = sys.stdout if file == STANDARD else file
    try:
        with _opened(folder, read_only=None) as store:
            count = store.export(target, vectors=vectors)
    except MemoryFormatError as error:
        from hybridmem_plugins.memory.inspection import salvage, write_lines
        from hybridmem_plugins.memory.journal import FILE_NAME

        if not (folder / FILE_NAME).exists():
            raise
        count = write_lines(salvage(folder), target)
        typer.echo(f"Error: {' '.join(str(error).split())}", err=True)
        typer.echo(f"{count:,} passages could be read and were written.", err=True)
        raise typer.Exit(1) from error
    if file != STANDARD:
        typer.echo(f"{count:,} passages written to {file}.", err=True)  # the file may be standard output


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=folder, help="Folder; made if it is not there.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", parser=readable_file, help="JSON lines; -, standard input.")],
) -> None:
    """Read what `export` wrote; passages of the same id are replaced, so that it can be run again after a stop."""
    from hybridmem_plugins import HybridMemory

    stored = 0
    try:
        with HybridMemory(path=folder) as memory:
            for batch in _batches(file):
                memory.add(batch)
                stored += len(batch)
            total = len(memory)
    except BaseException:
        typer.echo(f"Stopped: {stored:,} passages are stored; import again to go on.", err=True)
        raise
    typer.echo(f"{stored:,} passages read from {_name(file)}; {folder} holds {total:,}.")


def delete(
    folder: Folder,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Id of a passage; may be given many times.")] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="""Metadata to match, as '{"tenant": "a"}'.""")
    ] = None,
) -> None:
    """Forget passages by id, by filter, or both."""
    conditions = parse_filter(filter_)
    if not ids and conditions is None:
        msg = "say what to forget: --id ID or --filter JSON"
        raise typer.BadParameter(msg)
    with _opened(folder) as store:
        gone = [] if conditions is None else store.delete_where(conditions)  # first: a bad filter then forgets nothing
        gone += store.delete(ids or [])
        left = len(store)
    unknown = sorted(set(ids or ()).difference(gone))
    typer.echo(f"{len(gone):,} passages forgotten, {left:,} left.")
    if unknown:
        typer.echo(f"Not stored: {', '.join(unknown)}", err=True)


def compact(folder: Folder) -> None:
    """Remove every trace of forgotten passages from the files."""
    with _opened(folder) as store:
        clean = store.compact()
    if not clean:
        typer.echo(
            "Traces are left: another process is at work here, or the disk is full. Compact again later.", err=True
        )
        raise typer.Exit(1)
    typer.echo(f"{folder} is compact.")


def _opened(folder: Path, *, read_only: bool | None = False) -> Any:
    """Open the store of a memory without an embedder: nothing is embedded, so any memory can be looked after."""
    from hybridmem_plugins.memory.graph import KnowledgeGraph
    from hybridmem_plugins.memory.journal import FILE_NAME
    from hybridmem_plugins.memory.store import MemoryStore

    if not (folder / FILE_NAME).exists():
        msg = f"{folder} holds no memory ({FILE_NAME} is missing)"
        raise MemoryFormatError(msg)
    return closing(MemoryStore(folder, graph=KnowledgeGraph(), read_only=read_only))


def _batches(file: Path) -> Iterator[list[Any]]:
    from hybridmem_plugins import Passage
    from hybridmem_plugins.memory.validation import check_passages

    batch: dict[str | int, Passage] = {}
    with nullcontext(sys.stdin.buffer) if file == STANDARD else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                values = json.loads(text)
                passage = Passage(values["text"], values.get("title"), values.get("id"), values.get("metadata") or {})
                check_passages([passage])  # as adding does later, when the line is no longer known
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                reason = str(error).replace("passage 0", "the passage", 1)
                msg = f"{_name(file)}, line {number}: no passage as `hybridmem export` writes it ({reason})"
                raise ValueError(msg) from error
            batch[number if passage.id is None else passage.id] = passage
            if len(batch) >= BATCH:
                yield list(batch.values())
                batch = {}
    if batch:
        yield list(batch.values())


def _name(file: Path) -> str:
    return "standard input" if file == STANDARD else str(file)
