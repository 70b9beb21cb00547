"""`hybridmem augment`: build a noisy training set from files, or look at what the noise does."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer


def augment(
    examples: Annotated[
        Path,
        typer.Argument(help="JSON lines with id, question, answers, context (.gz too), or a BEIR folder."),
    ],
    output: Annotated[Path, typer.Argument(help="File to write: the data set, or with --preview an HTML page.")] = Path(
        "augmented.jsonl"
    ),
    chunks: Annotated[
        Path | None, typer.Option(help="JSON lines with id, title, text. Left out: the examples' own contexts.")
    ] = None,
    form: Annotated[
        str, typer.Option(help="prompt_completion, conversational, chat, raft, rows or embedding_qa.")
    ] = "prompt_completion",
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    copies: Annotated[int, typer.Option(min=1, help="Rows with different noise for each example.")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Passages in a context.")] = 5,
    rate: Annotated[
        list[str] | None, typer.Option(help="OPERATOR=CHANCE, instead of the default rates; may be repeated.")
    ] = None,
    severity: Annotated[float | None, typer.Option(min=0, max=1, help="For all operators.")] = None,
    profile: Annotated[Path | None, typer.Option(help="A saved noise profile to sample from.")] = None,
    split: Annotated[str | None, typer.Option(help="Write train or validation alone.")] = None,
    decontaminate: Annotated[
        list[Path] | None, typer.Option(help="Evaluation file to keep apart from; may be repeated.")
    ] = None,
    skip_bad_rows: Annotated[bool, typer.Option(help="Count bad rows and go on, instead of stopping.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was cut off.")] = True,
    preview: Annotated[bool, typer.Option(help="Show clean against noisy, and write an HTML page.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows in the preview.")] = 5,
) -> None:
    """Make training contexts as broken as real retrieval, with labels that stay true."""
    try:
        dataset = _dataset(examples, chunks, seed, copies, size, rate, severity, profile, decontaminate, skip_bad_rows)
        if preview:
            _preview(dataset, output if output.suffix in (".html", ".htm") else output.with_suffix(".html"), rows)
            return
        sheet = dataset.export(output, form, split=split, resume=resume, progress=True)
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(sheet.counts.get("outcome", {}).items()))
    typer.echo(f"{output}: made {sheet.rows} rows ({outcomes}); datasheet: {output}.datasheet.json")


def _dataset(
    examples: Path,
    chunks: Path | None,
    seed: int,
    copies: int,
    size: int,
    rate: list[str] | None,
    severity: float | None,
    profile: Path | None,
    decontaminate: list[Path] | None,
    skip_bad_rows: bool,
) -> Any:
    from hybridmem_plugins.augmentation.augmenter import NoisyContextAugmenter
    from hybridmem_plugins.augmentation.examples import read_rows
    from hybridmem_plugins.augmentation.profile import NoiseProfile

    learnt = NoiseProfile.load(profile) if profile else None
    augmenter = NoisyContextAugmenter(seed, _rates(rate), severity, size=size, profile=learnt)
    given: Any = examples if examples.is_dir() else list(read_rows(examples))
    pool: Any = read_rows(chunks) if chunks else None if examples.is_dir() else _own_contexts(given)
    return augmenter.build_dataset(
        given,
        pool,
        copies=copies,
        decontaminate=decontaminate or (),
        on_bad_row="skip" if skip_bad_rows else "raise",
    )


def _rates(pairs: list[str] | None) -> dict[str, float] | None:
    if not pairs:
        return None
    try:
        return {name: float(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    except ValueError as error:
        msg = f"--rate {' '.join(pairs)}: write OPERATOR=CHANCE, for instance nbsp=0.2."
        raise ValueError(msg) from error


def _own_contexts(examples: list[Any]) -> list[dict[str, Any]]:
    """Take the different contexts of the examples as chunks."""
    from hybridmem_plugins.augmentation.examples import contexts_of, first_of

    chunks: dict[str, dict[str, Any]] = {}
    for example in examples:
        for given in contexts_of(example) if isinstance(example, dict) else []:
            chunk = {"text": given, "title": example.get("title")} if isinstance(given, str) else given
            text = first_of(chunk, "text", "page_content") if isinstance(chunk, dict) else None
            # What is of no known form is found where the examples are read, and named there.
            if isinstance(text, str) and text.strip():
                chunks.setdefault(text, chunk)
    return list(chunks.values())


def _preview(dataset: Any, path: Path, count: int) -> None:
    from rich.console import Console

    from hybridmem_plugins.augmentation.preview import page, terminal

    shown = list(islice(dataset, count))
    console = Console()
    for table in terminal(shown, dataset.lookup):
        console.print(table)
    path.write_text(page(shown, dataset.lookup), encoding="utf-8")
    typer.echo(f"Page with all edits: {path}")
