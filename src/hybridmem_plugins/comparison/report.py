"""The report of a comparison: Markdown, and one HTML file that needs nothing else."""

from __future__ import annotations

import html
import io
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from hybridmem_plugins.comparison.costs import Costs
from hybridmem_plugins.comparison.figures import (
    STAGES,
    Table,
    answerable,
    cost_table,
    difference_table,
    graph_table,
    mean,
    quality_table,
    time_table,
    verdicts,
    ways_of,
)
from hybridmem_plugins.comparison.ways import Comparison
from hybridmem_plugins.errors import require

MARKDOWN, HTML = "report.md", "report.html"
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --back: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top }
th { background: var(--back) } .wide { overflow-x: auto } figure { margin: 1.5rem 0 }
figure svg { background: #fff; border-radius: 6px; height: auto; max-width: 100% } code { background: var(--back) }
"""


def write_report(comparison: Comparison, costs: Costs, folder: Path, command: str) -> list[Path]:
    """Write the report.

    Args:
        comparison: What was answered.
        costs: What was measured beside it.
        folder: Where `report.md`, `report.html` and, with matplotlib, the plots as SVG go.
        command: The command that repeats it.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = f"Four ways to build one assistant: {comparison.benchmark.name}"
    about, said, tables = _about(comparison, command), verdicts(comparison), _tables(comparison, costs)
    plots = _plots(comparison)
    written = []
    for name, svg in plots.items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    pictures = "\n\n".join(f"![{_caption(name)}]({name}.svg)" for name in plots)
    body = [f"# {title}", about, "## In short", "\n".join(f"- {one}" for one in said)]
    body += [_markdown(table) for table in tables[:1]] + ([pictures] if pictures else [])
    body += [_markdown(table) for table in tables[1:]]
    written.append(folder / MARKDOWN)
    written[-1].write_text("\n\n".join(body) + "\n", encoding="utf-8")
    written.append(folder / HTML)
    written[-1].write_text(_page(title, about, said, tables, plots), encoding="utf-8")
    return written


def _tables(comparison: Comparison, costs: Costs) -> list[Table]:
    tables = [quality_table(comparison), difference_table(comparison)]
    if {"hybrid_tuned", "vector_tuned"} <= {name for name, _ in ways_of(comparison)}:
        tables.append(graph_table(comparison, costs))
    return [*tables, time_table(comparison), cost_table(comparison, costs)]


def _about(comparison: Comparison, command: str) -> str:
    import torch

    benchmark, settings = comparison.benchmark, comparison.settings
    models = ", ".join(f"`{model}`" for model in dict.fromkeys(comparison.models.values()))
    return (
        f"{len(benchmark.questions)} questions over {len(benchmark.passages):,} passages; {settings.k} passages and "
        f"at most {settings.budget} tokens of them in a prompt; greedy replies of at most {settings.max_new_tokens} "
        f"tokens, {settings.max_quoting_tokens} for the fine-tuned reader, which may quote first. Models: {models}. "
        f"Machine: {platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}. "
        f"Repeat with `{command}`."
    )


def _markdown(table: Table) -> str:
    lines = [f"| {' | '.join(table.heads)} |", f"|{'---|' * len(table.heads)}"]
    lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return f"## {table.title}\n\n" + (f"{table.note}\n\n" if table.note else "") + "\n".join(lines)


def _page(title: str, about: str, said: Sequence[str], tables: Sequence[Table], plots: dict[str, str]) -> str:
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{_inline(about)}</p>", "<h2>In short</h2>", "<ul>"]
    parts += [f"<li>{_inline(one)}</li>" for one in said] + ["</ul>"]
    for position, table in enumerate(tables):
        parts.append(_table(table))
        if position == 0:
            parts += [
                f"<figure>{svg[svg.index('<svg') :]}<figcaption>{_caption(name)}</figcaption></figure>"
                for name, svg in plots.items()
            ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
    rows = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    note = f"<p>{_inline(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{html.escape(table.title)}</h2>{note}"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    )


def _inline(text: str) -> str:
    """Return Markdown's bold, italic and code as HTML."""
    text = html.escape(text)
    for pattern, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em"), (r"`(.+?)`", "code")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text


def _caption(name: str) -> str:
    return {"answers": "Answers, with 95% intervals", "seconds": "Seconds of one answer by stage"}[name]


def _plots(comparison: Comparison) -> dict[str, str]:
    """Draw the answers and the seconds as SVG; nothing without matplotlib."""
    try:
        require("matplotlib.figure", "plot")
    except ImportError:
        return {}
    return {"answers": _plot_answers(comparison), "seconds": _plot_seconds(comparison)}


def _plot_answers(comparison: Comparison) -> str:
    figures = require("matplotlib.figure", "plot")
    figure = figures.Figure(figsize=(9, 3.6), layout="constrained")
    axis, ways = figure.subplots(), ways_of(comparison)
    scores = (("accuracy", "contained"), ("exact match", "exact"), ("F1", "f1"))
    for place, (label, key) in enumerate(scores):
        found = [mean(answerable(comparison.of(way)), key) for way, _ in ways]
        heights = [one.mean if one else 0.0 for one in found]
        spread = [
            [one.mean - one.low if one else 0 for one in found],
            [one.high - one.mean if one else 0 for one in found],
        ]
        at = [position + 0.27 * (place - 1) for position in range(len(ways))]
        axis.bar(at, heights, 0.25, yerr=spread, capsize=3, label=label, color=_COLOURS[place])
    axis.set_xticks(
        range(len(ways)), [title.replace(", ", ",\n").replace(" (", "\n(") for _, title in ways], fontsize=8
    )
    axis.set(ylabel="share of answerable questions", ylim=(0, 1))
    axis.legend(frameon=False)
    return _svg(figure)


def _plot_seconds(comparison: Comparison) -> str:
    figures = require("matplotlib.figure", "plot")
    figure = figures.Figure(figsize=(9, 2.6), layout="constrained")
    axis, ways = figure.subplots(), ways_of(comparison)
    left = [0.0] * len(ways)
    for place, stage in enumerate(STAGES):
        widths = []
        for way, _ in ways:
            records = [record for record in comparison.of(way) if record["alone"]]
            widths.append(sum(record["timings"].get(stage, 0.0) for record in records) / max(1, len(records)))
        axis.barh(range(len(ways)), widths, left=left, label=stage, color=_COLOURS[place])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(ways)), [title for _, title in ways], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="seconds, mean")
    axis.legend(frameon=False, ncols=4, fontsize=8)
    return _svg(figure)


def _svg(figure: object) -> str:
    text = io.StringIO()
    # Without a date, the same figures give the same file.
    figure.savefig(text, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return text.getvalue()
