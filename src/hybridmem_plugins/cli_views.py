"""What the command line prints: tables, progress bars, and hits as plain JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from hybridmem_plugins.extraction.tokens import name_key
from hybridmem_plugins.passage import Passage
from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.samples import SampleQuestion

if TYPE_CHECKING:
    from hybridmem_plugins import Explanation, Hit

__all__ = [
    "counted",
    "hits_as_json",
    "print_comparison",
    "print_demo_end",
    "print_demo_start",
    "print_hits",
    "print_indexed",
    "print_json",
    "print_skipped",
    "progress",
    "show_explanation",
]

SNIPPET = 220
"""Characters of a passage or a linking sentence that a table shows."""

ROUTE_NAMES = {"semantic": "vectors", "lexical": "words", "graph": "graph"}


def _out() -> Console:
    # Made anew each time, since tests and callers replace the standard streams.
    return Console(highlight=False, soft_wrap=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} passages/s" if task.speed else "", style="dim")


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on the standard error stream.

    Args:
        label: What is being done.
        total: Passages to come, or None where unknown.

    Yields:
        A function to call with the number of passages just done.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)


def counted(passages: Iterable[Passage]) -> list[Passage]:
    """Read all passages under a progress bar, so that the next bar knows its length."""
    found: list[Passage] = []
    with progress("Reading", None) as advance:
        for passage in passages:
            found.append(passage)
            advance(1)
    return found


def print_indexed(added: int, seconds: float, folder: Path, total: int) -> None:
    """Report what was indexed and how fast."""
    rate = added / max(seconds, 1e-9)
    _out().print(
        Text.assemble(
            ("Indexed ", "bold green"),
            f"{_count(added, 'passage')} in {seconds:.1f} s ({rate:,.0f} passages/s). ",
            f"{printable(str(folder))} now holds {total:,}.",
        ),
        soft_wrap=True,
    )


def print_skipped(skipped: Sequence[tuple[str, str]], limit: int | None) -> None:
    """List what was skipped and why, on the standard error stream."""
    if not skipped:
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"Skipped {len(skipped):,}:", style="bold yellow"))
    for path, reason in skipped[:limit]:
        console.print(Text(f"  {printable(path)}: {printable(reason)}"))
    if limit is not None and len(skipped) > limit:
        console.print(Text(f"  ... and {len(skipped) - limit:,} more (--all-skipped lists them)"))


def hits_as_json(question: str, hits: Iterable[Hit]) -> dict[str, Any]:
    """Return a question and its hits as plain JSON values."""
    return {
        "question": question,
        "hits": [hit.to_dict() for hit in hits],
    }


def print_json(value: Any) -> None:
    """Print JSON, with escapes where the terminal cannot show the letters."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    sys.stdout.write(json.dumps(value, ensure_ascii=ascii_only, indent=2) + "\n")


def show_explanation(explanation: Explanation, *, as_json: bool, html: Path | None, png: Path | None) -> None:
    """Print an explanation, and write the files that were asked for."""
    if html is not None:
        html.write_text(explanation.to_html(), encoding="utf-8")
    if png is not None:
        explanation.to_png(png)
    if as_json:
        print_json(explanation.to_dict())
    else:
        sys.stdout.write(explanation.to_text())
    for file in (html, png):
        if file is not None:
            Console(stderr=True, highlight=False, soft_wrap=True).print(Text(f"Wrote {printable(str(file))}"))


def print_hits(question: str, hits: Sequence[Hit], total: int) -> None:
    """Print ranked passages with the reasons for each.

    Args:
        question: What was asked.
        hits: What was found, best first.
        total: Passages in the memory, to tell an empty memory from one without a match.
    """
    console = _out()
    if not hits:
        console.print("No passage matches." if total else "The memory is empty.")
        return
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 1, 0), title=Text(printable(question)))
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Score", justify="right", no_wrap=True)
    table.add_column("Passage", ratio=3, overflow="fold")
    table.add_column("Why", ratio=2, overflow="fold")
    for rank, hit in enumerate(hits, 1):
        passage = Text(printable(hit.passage.title or hit.passage.id or ""), style="bold")
        passage.append("\n" + shorten(hit.passage.text, SNIPPET), style="not bold")
        source = hit.passage.metadata.get("source")
        if source:
            passage.append(f"\n{printable(str(source))}", style="dim not bold")
        table.add_row(str(rank), f"{hit.score:.3f}", passage, _why(hit.provenance))
    console.print(table)
    route = hits[0].provenance.get("route") or {}
    if route.get("reason"):
        console.print(Text(f"Route {route.get('chosen', '')}: {printable(str(route['reason']))}", style="dim"))


def _why(provenance: Mapping[str, Any]) -> Text:
    """Say which routes found a passage at which rank, and along which path of names."""
    routes = provenance.get("routes") or {}
    why = Text(", ".join(f"{ROUTE_NAMES.get(name, name)} #{route.get('rank', '?')}" for name, route in routes.items()))
    for step in provenance.get("path") or []:
        why.append("\n" + _step(step), style="cyan")
        if step.get("sentence"):
            why.append(f"\n“{shorten(str(step['sentence']), SNIPPET // 2)}”", style="dim")
    return why


def _step(step: Mapping[str, Any]) -> str:
    start, end = (printable(str(step.get(f"{key}_title") or step.get(key) or "")) for key in ("from", "to"))
    name = printable(str(step.get("name") or ""))
    return f"{start} → {end}" + (f" ({name})" if name and name not in {name_key(start), name_key(end)} else "")


def print_demo_start(passages: int, seconds: float, k: int) -> None:
    """Introduce the demo."""
    _out().print(
        f"Indexed {passages} sample passages about memory technology in {seconds:.2f} s, without any LLM.\n"
        f"Each question below is asked twice, for {_count(k, 'passage')} each. ✓ marks a passage that the answer needs."
    )


def print_comparison(
    question: SampleQuestion, vectors: Sequence[Hit], hybrid: Sequence[Hit], titles: Mapping[str, str]
) -> None:
    """Print what two ways of searching found for one question, and the sentences that join its passages.

    Args:
        question: The question, with the ids of the passages that its answer needs.
        vectors: Hits of the vector search alone.
        hybrid: Hits of the hybrid search.
        titles: Title of each passage by id.
    """
    console = _out()
    console.print()
    console.print(Text(question.question, style="bold"))
    needed = " + ".join(titles[identifier] for identifier in question.gold)
    console.print(Text(f"Answer: {question.answer}\nNeeds: {needed}", style="dim"))
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    for name, hits in (("Vectors alone", vectors), ("Hybrid", hybrid)):
        found = _found(question, hits)
        style = "green" if found == len(question.gold) else "red"
        table.add_column(Text(f"{name}: {found} of {len(question.gold)} needed", style=f"bold {style}"), ratio=1)
    for row in range(max(len(vectors), len(hybrid))):
        table.add_row(*(_cell(question, hits, row) for hits in (vectors, hybrid)))
    console.print(table)
    for hit in hybrid:
        for step in hit.provenance.get("path") or []:
            if {step.get("from"), step.get("to")} <= set(question.gold) and step.get("to") == hit.passage.id:
                sentence = shorten(str(step.get("sentence") or ""), SNIPPET)
                console.print(Text(f"  {_step(step)}: “{sentence}”", style="cyan"))


def _cell(question: SampleQuestion, hits: Sequence[Hit], row: int) -> Text:
    if row >= len(hits):
        return Text("")
    passage = hits[row].passage
    needed = passage.id in question.gold
    return Text(f"{'✓' if needed else ' '} {row + 1}. {passage.title}", style="green" if needed else "")


def _found(question: SampleQuestion, hits: Iterable[Hit]) -> int:
    return len({hit.passage.id for hit in hits} & set(question.gold))


def print_demo_end(results: Sequence[tuple[SampleQuestion, Sequence[Hit], Sequence[Hit]]]) -> None:
    """Sum up for how many questions each way found everything that the answer needs."""
    complete = [
        sum(_found(question, hits) == len(question.gold) for question, hits in side)
        for side in (
            [(question, vectors) for question, vectors, _ in results],
            [(question, hybrid) for question, _, hybrid in results],
        )
    ]
    _out().print(
        f"\nAll needed passages found: vectors alone {complete[0]} of {len(results)} questions, "
        f"hybrid {complete[1]} of {len(results)}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
