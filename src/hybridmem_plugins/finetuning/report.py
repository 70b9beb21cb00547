"""Tables and plots of a study, from the replies that `evaluate` and `benchmarks/finetune.py` kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmem_plugins.errors import require
from hybridmem_plugins.finetuning.evaluate import VIEWS, Record, is_noisy, view
from hybridmem_plugins.finetuning.forgetting import perplexity
from hybridmem_plugins.finetuning.metrics import Interval, bootstrap, paired_difference
from hybridmem_plugins.finetuning.sets import read_rows

Runs = Mapping[str, Sequence[str]]
"""Arm to the names of its runs, one for each seed; the first arm is the base."""


def _scores(records: Mapping[str, list[Record]], names: Sequence[str], what: str) -> list[list[float]]:
    tables = [view(records[name], what) for name in names]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [[table[key] for key in shared] for table in tables]


def load_runs(folder: str | Path, runs: Runs) -> dict[str, list[Record]]:
    """Read the replies of every run: `NAME.jsonl` in the folder."""
    return {name: read_rows(Path(folder) / f"{name}.jsonl") for names in runs.values() for name in names}


def accuracy_table(records: Mapping[str, list[Record]], runs: Runs) -> list[str]:
    """Make a Markdown table: each view, each arm's mean with its 95% interval, and the last arm minus the base."""
    arms = list(runs)
    lines = [f"| | {' | '.join(arms)} | {arms[-1]} − {arms[0]} |", f"|---|{'---|' * (len(arms) + 1)}"]
    for what in VIEWS:
        cells = [str(bootstrap(_scores(records, runs[arm], what))) for arm in arms]
        both = _scores(records, [*runs[arms[-1]], *runs[arms[0]]], what)
        split = len(runs[arms[-1]])
        lines.append(f"| {what} | {' | '.join(cells)} | {paired_difference(both[:split], both[split:])} |")
    return lines


def compare(records: Mapping[str, list[Record]], runs: Runs, ours: str, other: str, what: str) -> Interval:
    """Return ours minus the other arm in one view, paired by question."""
    both = _scores(records, [*runs[ours], *runs[other]], what)
    return paired_difference(both[: len(runs[ours])], both[len(runs[ours]) :])


def forgetting_table(folder: str | Path, runs: Runs) -> list[str]:
    """Make a Markdown table of perplexity, IFEval and agreement with the base; a dash is what was not measured."""
    lines = [
        "| run | perplexity | IFEval strict, prompts | instructions | same top token | KL (nats) |",
        "|---|---|---|---|---|---|",
    ]
    for name in (name for names in runs.values() for name in names):
        summary, same = _read(Path(folder) / f"{name}.json"), _read(Path(folder) / f"{name}.agreement.json")
        followed = [row["followed"] for row in summary.get("ifeval", [])] if summary else []
        flat = [told for row in followed for told in row]
        cells = [
            f"{perplexity(summary['losses']):.2f}" if summary else "—",
            f"{sum(map(all, followed)) / len(followed):.4f}" if followed else "—",
            f"{sum(flat) / len(flat):.4f}" if flat else "—",
            f"{sum(row['same'] for row in same) / len(same):.3f}" if same else "—",
            f"{sum(row['kl'] for row in same) / len(same):.4f}" if same else "—",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def plot_noise(records: Mapping[str, list[Record]], runs: Runs, file: str | Path) -> None:
    """Plot accuracy against noise: RGB's noise share, and the severity of unseen operators."""
    figures = require("matplotlib.figure", "train")
    figure = figures.Figure(figsize=(8.5, 3.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for arm, names in runs.items():
        rows = [row for name in names for row in records[name]]
        rgb = [row for row in rows if row["suite"] == "rgb" and row["condition"] == "noise"]
        unseen = [row for row in rows if is_noisy(row) and row["condition"].startswith("unseen:")]
        for axis, chosen in ((left, rgb), (right, unseen)):
            levels = sorted({row["severity"] for row in chosen})
            means = [_mean([row["contained"] for row in chosen if row["severity"] == level]) for level in levels]
            axis.plot(levels, means, marker="o", label=arm)
    left.set(xlabel="noise share (RGB, true passages)", ylabel="answer contained", ylim=(0, 1))
    right.set(xlabel="severity of unseen operators (NQ, XQuAD)")
    right.legend(frameon=False)
    figure.savefig(file)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def plot_trade(points: Mapping[str, tuple[float, float]], file: str | Path, gain: str = "accuracy under noise") -> None:
    """Plot gain against forgetting.

    Args:
        points: Run to perplexity and gain.
        file: Picture to write.
        gain: What the gain is.
    """
    figures = require("matplotlib.figure", "train")
    figure = figures.Figure(figsize=(5.5, 3.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    for name, (forgotten, gained) in points.items():
        axis.scatter(forgotten, gained)
        axis.annotate(name, (forgotten, gained), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.margins(0.12)  # room for the names
    axis.set(xlabel="perplexity on Wikipedia passages (lower is better)", ylabel=gain)
    figure.savefig(file)
