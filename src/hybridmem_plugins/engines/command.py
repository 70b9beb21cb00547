"""The command `hybridmem migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hybridmem_plugins.engines.address import is_address, without_secrets


def migrate(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Folder of a memory, or an engine's address.")],
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="Address of an engine, or a folder.")],
    questions: Annotated[int, typer.Option(min=0, help="Questions by which the answers are compared.")] = 50,
) -> None:
    """Copy a memory to an engine or back, and verify that both answer alike; the source stays as it is.

    Vectors and names are copied, not made again. After a stop, the same command goes on. An address may leave its
    password to PGPASSWORD or ~/.pgpass.
    """
    from hybridmem_plugins import cli_views
    from hybridmem_plugins.engines.moving import compare, move, opened

    here, there = _place(source), _place(to)
    if here == there:
        msg = "FROM and --to are the same place"
        raise typer.BadParameter(msg)
    with opened(here) as first, opened(there, make=True) as second:
        with cli_views.progress("Moving", len(first)) as advance:
            total = move(first, second, advance)
        typer.echo(f"{total:,} passages copied to {without_secrets(to)}, which holds {len(second):,}.")
        if not questions:
            return
        found = compare(first, second, questions)
    for what, ids in (("missing there", found.missing), ("only there", found.extra)):
        if ids:
            typer.echo(f"Problem: {what}: {', '.join(ids)}", err=True)
    typer.echo(f"{found.same:,} of {found.questions:,} questions have the same answer in both.")
    if not found.ok:
        raise typer.Exit(1)


def _place(text: str) -> str | Path:
    return text if is_address(text) else Path(text)
