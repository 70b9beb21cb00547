"""`hybridmem compare`: the function that the main command registers."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer


def compare(
    data: Annotated[str, typer.Argument(help="Folder with corpus.jsonl and queries.jsonl (BEIR), or 'samples'.")],
    output: Annotated[Path, typer.Option(help="Folder for replies and reports.", file_okay=False)],
    adapter: Annotated[str, typer.Option(help="The fine-tuned reader: a shipped name or a folder.")] = "smollm2-135m",
    closed_book: Annotated[
        Path | None, typer.Option(help="Adapter trained on the passages; made there by --train-closed-book.")
    ] = None,
    train_closed_book: Annotated[
        bool, typer.Option("--train-closed-book", help="Train the passages into an adapter first.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first questions.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Passages to retrieve.")] = 4,
    budget: Annotated[int, typer.Option(min=1, help="Most tokens of passages in a prompt.")] = 768,
    absent: Annotated[int, typer.Option(min=0, help="Questions asked again without their gold passages.")] = 5,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 48,
    dtype: Annotated[
        str | None, typer.Option(help="Torch dtype of the models, such as bfloat16; its own default otherwise.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model on a CPU.")] = None,
) -> None:
    """Compare four ways to build an assistant on your own questions, and write a report.

    RAG with the base model, fine-tuning alone, hybrid memory with the base, hybrid memory with the fine-tuned model.
    Replies are kept in OUTPUT, so that a run goes on where it stopped.
    """
    from hybridmem_plugins import cli_views
    from hybridmem_plugins.comparison.closed_book import train_closed_book as train
    from hybridmem_plugins.comparison.costs import measure_costs
    from hybridmem_plugins.comparison.questions import load_benchmark
    from hybridmem_plugins.comparison.report import write_report
    from hybridmem_plugins.comparison.ways import WAYS, Settings, load_model
    from hybridmem_plugins.comparison.ways import compare as run
    from hybridmem_plugins.errors import require

    benchmark = load_benchmark(data)
    if limit is not None:
        benchmark = replace(benchmark, questions=benchmark.questions[:limit])
    if threads is not None:
        require("torch", "llm").set_num_threads(threads)
    if train_closed_book:
        closed_book = train(benchmark.passages, closed_book or output / "closed-book")
    local = load_model(adapter, closed_book, dtype)
    settings = Settings(k=k, budget=budget, max_new_tokens=max_new_tokens, absent=absent)
    with cli_views.progress("Asking", len(WAYS) * (len(benchmark.questions) + absent)) as advance:
        done = [0]

        def count(_: object) -> None:
            done[0] += 1
            advance(done[0])

        comparison = run(
            benchmark, output, local=local, adapter=adapter, closed_book=closed_book, settings=settings, on_record=count
        )
    weights = sum(one.numel() * one.element_size() for one in local.model.parameters()) / 2**20
    costs = measure_costs(data, benchmark, model_mebibytes=weights, adapter=adapter, closed_book=closed_book)
    with (output / "records.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in comparison.records)
    asked = f"hybridmem compare {data if data == 'samples' else 'DATA'} --output OUT"
    asked += " --train-closed-book" if closed_book else ""
    given = {
        "adapter": adapter, "limit": limit, "k": k, "budget": budget, "absent": absent,
        "max_new_tokens": max_new_tokens, "dtype": dtype,
    }  # fmt: skip
    usual = inspect.signature(compare).parameters
    for name, value in given.items():
        if value != usual[name].default:
            asked += f" {'-k' if name == 'k' else '--' + name.replace('_', '-')} {value}"
    for written in write_report(comparison, costs, output, asked):
        typer.echo(f"Wrote {written}")
