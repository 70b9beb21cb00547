"""The command line: `hybridmem index | query | demo`, and the commands that other rooms bring."""

from __future__ import annotations

import errno
import importlib
import io
import json
import keyword
import os
import sqlite3
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from hybridmem_plugins import __version__
from hybridmem_plugins.errors import HybridMemoryError, MemoryFormatError
from hybridmem_plugins.retrieval.model import ROUTES

if TYPE_CHECKING:
    from hybridmem_plugins import HybridMemory, Passage

__all__ = ["app", "main"]

ROOM_COMMANDS = {
    "augment": "hybridmem_plugins.augmentation.command",
    "train": "hybridmem_plugins.finetuning.command",
    "evaluate": "hybridmem_plugins.finetuning.command",
    "blend": "hybridmem_plugins.finetuning.command",
    "export-model": "hybridmem_plugins.finetuning.command",
    "compare": "hybridmem_plugins.comparison.command",
    "serve": "hybridmem_plugins.page.command",
    "migrate": "hybridmem_plugins.engines.command",
    **dict.fromkeys(("check", "export", "import", "delete", "compact"), "hybridmem_plugins.cli_maintenance"),
}
"""Commands of other rooms: the name, which is that of the function too (`import_` for `import`), and its module."""

BATCH = 1000
"""Passages that `index` and `import` store in one step; what is stored stays when the rest is interrupted."""

LOOK_AHEAD = 16
"""Numbers after a document's last passage that are tried at once when looking for outdated ones."""

SKIPPED_SHOWN = 20
"""Skipped files that are listed unless all are asked for."""

_EXPECTED = (HybridMemoryError, ValueError, TypeError, OSError, ImportError, sqlite3.Error)


class _Commands(TyperGroup):
    """Imports the commands of other rooms when needed, and tells errors in one line."""

    def list_commands(self, ctx: Any) -> list[str]:
        present = [name for name, module in ROOM_COMMANDS.items() if find_spec(module) is not None]
        return [*super().list_commands(ctx), *present]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        module = ROOM_COMMANDS.get(cmd_name)
        if module is None or find_spec(module) is None:
            return super().get_command(ctx, cmd_name)
        single = typer.Typer(add_completion=False)
        function = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        single.command(cmd_name)(getattr(importlib.import_module(module), function))
        return typer.main.get_command(single)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            wanted = hasattr(error, "exit_code") or isinstance(error, typer.Abort)
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if wanted or broken_pipe or os.environ.get("HYBRIDMEM_TRACEBACK"):
                raise
            _fail(error)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    name="hybridmem",
    no_args_is_help=True,
    help="A memory of vectors and relations: index files, ask questions, see why each passage was found.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)


def main() -> None:
    """Run the command line; the entry point of the `hybridmem` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ✓ or ü gets a question mark, not an error
    app()


def _fail(error: Exception) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, _EXPECTED):
        message = f"unexpected {type(error).__name__}: {message} (HYBRIDMEM_TRACEBACK=1 shows where)"
    typer.echo(f"Error: {message}", err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hybridmem-plugins {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def folder(text: str) -> Path:
    """Turn the text of a parameter into the path of a memory's folder, which need not be there.

    It is looked at before it is a path: that would make one `/` of an address's `//`, and a folder of that name.

    Raises:
        typer.BadParameter: An engine's address, or a file.
    """
    from hybridmem_plugins.engines.address import is_address, without_secrets

    if is_address(text):
        msg = (
            f"{without_secrets(text)} is an address, and a folder is needed. `hybridmem migrate` copies a folder to an "
            "address and back; in Python, HybridMemory(path=...) opens either."
        )
        raise typer.BadParameter(msg)
    if os.path.isfile(text):
        msg = f"{text} is a file, and a folder is needed"
        raise typer.BadParameter(msg)
    return Path(text)


def existing_folder(text: str) -> Path:
    """Do as `folder`, where the folder has to be there.

    Raises:
        typer.BadParameter: An engine's address, a file, or nothing of that name.
    """
    path = folder(text)
    if not os.path.exists(text):
        msg = f"{text} does not exist"
        raise typer.BadParameter(msg)
    return path


@app.command()
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", exists=True, help="Files and folders to read.")],
    memory: Annotated[Path, typer.Option(help="Folder of the memory; made if it is not there.", parser=folder)],
    max_words: Annotated[int, typer.Option(min=1, help="Longest passage that a document is split into.")] = 180,
    all_skipped: Annotated[bool, typer.Option("--all-skipped", help="List everything that was skipped.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Who reads and embeds: `processes` of this machine or `ray`; none: this one.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="With --engine: how many; one a processor.")] = None,
) -> None:
    """Read Markdown, text, HTML and JSON lines into a memory.

    Indexing a file again replaces its passages, and an emptied file loses them. Hidden files are passed over.

    What is gone from a folder, or from JSON lines, stays in the memory until it is forgotten:

    hybridmem delete MEMORY --filter '{"source": "docs/a.md"}'
    """
    from hybridmem_plugins import cli_views
    from hybridmem_plugins.extraction.files import read_passages

    skipped: list[tuple[str, str]] = []
    lengths: dict[str, int] = {}

    def keep_longest(source: str, count: int) -> None:
        lengths[source] = max(count, lengths.get(source, 0))

    found = read_passages(
        paths,
        max_words=max_words,
        on_skip=lambda path, reason: skipped.append((str(path), reason)),
        on_document=keep_longest,
        exclude=[memory],
        # Ids then depend neither on the working folder nor on how a path was typed: indexing again replaces.
        base=Path(os.path.abspath(memory)).parent,
    )
    passages = cli_views.counted(found)
    forgotten = 0
    # Files that were emptied leave nothing to store, only something to forget.
    if passages or (lengths and memory.is_dir() and any(memory.iterdir())):
        started = time.perf_counter()
        total, forgotten = _store(passages, lengths, memory, engine, workers)
        cli_views.print_indexed(len(passages), time.perf_counter() - started, memory, total)
    cli_views.print_skipped(skipped, None if all_skipped else SKIPPED_SHOWN)
    if not passages and not forgotten:
        msg = "no passage found in " + ", ".join(str(path) for path in paths)
        raise ValueError(msg)


def _store(
    passages: list[Passage], lengths: dict[str, int], folder: Path, engine: str | None, workers: int | None
) -> tuple[int, int]:
    """Add passages in batches under a progress bar; return how many the memory then holds, and has forgotten."""
    from hybridmem_plugins import HybridMemory, cli_views
    from hybridmem_plugins.filling import fill

    stored = 0
    try:
        with HybridMemory(path=folder) as opened, cli_views.progress("Indexing", len(passages)) as advance:

            def stored_more(count: int) -> None:
                nonlocal stored
                stored += count
                advance(count)

            if engine is None:
                for start in range(0, len(passages), BATCH):
                    stored_more(len(opened.add(passages[start : start + BATCH])))
            elif passages:
                fill(opened, passages, engine=engine, workers=workers, advance=stored_more)
            forgotten = _forget_rest(opened, lengths)
            return len(opened), forgotten
    except KeyboardInterrupt:
        typer.echo(f"Stopped: {stored:,} of {len(passages):,} passages are stored; index again to go on.", err=True)
        raise


def _forget_rest(memory: HybridMemory, lengths: dict[str, int]) -> int:
    """Delete what earlier, longer versions of documents left, passages with numbers beyond the last, and count them.

    All at once: a later run would not find what stands behind a gap.
    """
    outdated: list[str] = []
    while lengths:
        ids = {f"{source}#{length + step}": source for source, length in lengths.items() for step in range(LOOK_AHEAD)}
        parts = [passage for passage in memory.get(list(ids)) if _is_part(passage, ids[str(passage.id)])]
        outdated += [str(passage.id) for passage in parts]
        longer = {ids[str(passage.id)] for passage in parts}
        lengths = {source: length + LOOK_AHEAD for source, length in lengths.items() if source in longer}
    return len(memory.delete(outdated))


def _is_part(passage: Passage, source: str) -> bool:
    """Say whether a passage was split from a document, as its id says; a record of JSON lines may have any id."""
    return passage.metadata.get("source") == source and "document" in passage.metadata


@app.command()
def query(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=existing_folder, help="Folder of the memory.")],
    question: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", help="How many passages at most.")] = 8,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="""Metadata to match, as '{"tenant": "a"}'.""")
    ] = None,
    route: Annotated[str, typer.Option(help=f"One of {', '.join(ROUTES)}; auto chooses by the question.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the hits as JSON.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the entities, seeds and hops as well.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the explanation as a web page.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the subgraph that was walked.")] = None,
) -> None:
    """Find the passages that answer a question, and show why each was found."""
    from hybridmem_plugins import cli_views

    conditions = parse_filter(filter_)
    if explain or html or png:
        with open_memory(folder) as opened:
            explanation = opened.explain(question, k=k, filter=conditions, route=cast(Any, route))
        cli_views.show_explanation(explanation, as_json=as_json, html=html, png=png)
        return
    with open_memory(folder) as opened:
        hits = opened.search(question, k=k, filter=conditions, route=cast(Any, route))
        total = len(opened)
    if as_json:
        cli_views.print_json(cli_views.hits_as_json(question, hits))
    else:
        cli_views.print_hits(question, hits, total)


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """Read the JSON of a `--filter`; None stays None.

    Raises:
        typer.BadParameter: It is no JSON object.
    """
    if text is None:
        return None
    try:
        conditions = json.loads(text)
    except ValueError as error:
        msg = f"not JSON ({error})"
        raise typer.BadParameter(msg, param_hint="--filter") from error
    if not isinstance(conditions, dict):
        msg = """a JSON object is needed, such as '{"tenant": "a"}'"""
        raise typer.BadParameter(msg, param_hint="--filter")
    return conditions


def open_memory(folder: Path) -> HybridMemory:
    """Open a memory that exists; a question must not make one.

    Raises:
        FileNotFoundError: There is no such folder.
        MemoryFormatError: The folder holds no memory.
    """
    from hybridmem_plugins import HybridMemory
    from hybridmem_plugins.memory.journal import NO_CONTENT

    if not folder.is_dir():
        msg = f"there is no folder {folder}"
        raise FileNotFoundError(msg)
    if all(entry.name in NO_CONTENT for entry in folder.iterdir()):
        msg = f"{folder} is empty, so it is no memory. Make one with: hybridmem index PATH... --memory {folder}"
        raise MemoryFormatError(msg)
    return HybridMemory(path=folder)


@app.command()
def demo(
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages each way may find.")] = 4,
    answers: Annotated[bool, typer.Option(help="Let the shipped model answer as well.")] = True,
) -> None:
    """Compare hybrid retrieval with vectors alone, and let the shipped model answer, on a small sample corpus."""
    from hybridmem_plugins import HybridMemory, cli_demo, cli_views
    from hybridmem_plugins.samples import load_corpus, load_questions

    corpus = load_corpus()
    titles = {passage.id or "": passage.title or "" for passage in corpus}
    with HybridMemory() as memory:
        started = time.perf_counter()
        memory.add(corpus)
        cli_views.print_demo_start(len(corpus), time.perf_counter() - started, k)
        results = [
            (question, memory.search(question.question, k=k, route="vector"), memory.search(question.question, k=k))
            for question in load_questions()
            if question.gold
        ]
        for question, vectors, hybrid in results:
            cli_views.print_comparison(question, vectors, hybrid, titles)
        cli_views.print_demo_end(results)
        if answers:
            cli_demo.show_answers(memory, load_questions())


if __name__ == "__main__":
    main()
