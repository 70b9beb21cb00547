"""The figures of a comparison: means with intervals, differences between ways, and tables of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hybridmem_plugins.comparison.costs import Costs
from hybridmem_plugins.comparison.ways import WAYS, Comparison, Record
from hybridmem_plugins.finetuning.metrics import Interval, bootstrap, paired_difference

STAGES = ("retrieval", "synthesis", "generation", "citation")
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report: its title, what it says below the title, column heads, rows."""

    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def answerable(records: Sequence[Record]) -> list[Record]:
    """Return the records of questions whose answers the passages hold."""
    return [record for record in records if record["answers"] and not record["absent"]]


def unanswerable(comparison: Comparison, way: str) -> list[Record]:
    """Return the records without an answer in what was read: questions without one, and those without their gold.

    A question whose answer stood in another passage after all is left out.
    """
    plain = [record for record in comparison.of(way) if not record["answers"]]
    return plain + [record for record in comparison.of(way, absent=True) if not record["held"]]


def mean(records: Sequence[Record], key: str | Callable[[Record], float]) -> Interval | None:
    """Return the mean of a score with its bootstrap interval; None without records."""
    values = [float(record[key] if isinstance(key, str) else key(record)) for record in records]
    return bootstrap(values) if values else None


def difference(comparison: Comparison, ours: str, other: str, key: str, kind: str | None = None) -> Interval | None:
    """Return ours minus the other way in a score over the answerable questions, paired; None without any."""
    sides = []
    for way in (ours, other):
        records = answerable(comparison.of(way))
        sides.append({r["id"]: float(r[key]) for r in records if kind is None or r["type"] == kind})
    shared = sorted(set(sides[0]) & set(sides[1]))
    if not shared:
        return None
    return paired_difference([sides[0][one] for one in shared], [sides[1][one] for one in shared])


def told(interval: Interval | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a mean with its interval as text.

    >>> told(Interval(0.5, 0.25, 0.75)), told(Interval(0.5, 0.25, 0.75), signed=True), told(None)
    ('0.50 [0.25, 0.75]', '+0.50 [+0.25, +0.75]', '–')
    """
    if interval is None:
        return NOTHING
    sign = "+" if signed else ""
    one, low, high = (f"{value:{sign}.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    return f"{one} [{low}, {high}]"


def ways_of(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the ways that were run, with their titles."""
    ran = {record["way"] for record in comparison.records}
    return [(way.name, way.title) for way in WAYS if way.name in ran]


def quality_table(comparison: Comparison) -> Table:
    """Make the table of answers: accuracy, abstention, faithfulness."""
    rows: list[tuple[str, Callable[[str], str]]] = [
        ("accuracy (answer contained)", lambda way: _asked(comparison, way, "contained")),
        ("exact match", lambda way: _asked(comparison, way, "exact")),
        ("F1", lambda way: _asked(comparison, way, "f1")),
        ("accuracy of the raw reply", lambda way: _asked(comparison, way, "raw_contained")),
        ("exact match of the raw reply", lambda way: _asked(comparison, way, "raw_exact")),
        ("abstains, answerable", lambda way: _asked(comparison, way, "abstained")),
        ("wrong answers given", lambda way: told(mean(answerable(comparison.of(way)), _wrong))),
        ("abstains, answer absent", lambda way: told(mean(unanswerable(comparison, way), "abstained"))),
        ("raw reply abstains, answer absent", lambda way: told(mean(unanswerable(comparison, way), "raw_abstained"))),
        ("faithful, of the answers given", lambda way: told(mean(_given(comparison, way), _faithful))),
        ("answer stood in what was read", lambda way: _asked(comparison, way, "held")),
        ("all needed passages were read", lambda way: _asked(comparison, way, "gold_shown")),
    ]
    note = (
        "Means with 95% bootstrap intervals over questions. The system withholds an answer that stands in none of its "
        "sources; *raw* rows count the model's replies before that. *Faithful*: the answer was found in what it cites. "
        "*Absent*: questions without an answer, or asked without their gold passages."
    )
    return _by_way(comparison, "Answers", note, rows)


def time_table(comparison: Comparison) -> Table:
    """Make the table of seconds by stage, and of tokens."""
    rows: list[tuple[str, Callable[[str], str]]] = [
        (f"{stage}, ms", lambda way, stage=stage: _milliseconds(_alone(comparison, way), stage))  # type: ignore[misc]
        for stage in (*STAGES, "total")
    ]
    rows += [
        (
            "generation, ms of processor time",
            lambda way: f"{1000 * _average(_alone(comparison, way), 'processor_seconds'):,.0f}",
        ),
        ("retrieval, share of the total", lambda way: _share(_alone(comparison, way))),
        ("tokens read", lambda way: f"{_average(comparison.of(way), 'input_tokens'):.0f}"),
        ("tokens written", lambda way: f"{_average(comparison.of(way), 'output_tokens'):.0f}"),
    ]
    alone = min((len(_alone(comparison, way)) for way, _ in ways_of(comparison)), default=0)
    note = (
        f"Of {alone} questions of each way that were asked alone; mean · 95th percentile, by the clock. Other work on "
        "the machine lengthens these, so compare the models by processor time."
    )
    return _by_way(comparison, "Time and tokens of one answer", note, rows)


def cost_table(comparison: Comparison, costs: Costs) -> Table:
    """Make the table of what each way costs beside its answers."""
    trained = costs.closed_book
    closed_training = f"{trained['seconds']:.0f} s on {trained['device']}" if trained else "not trained on the passages"
    closed_update = f"{trained['seconds']:.0f} s: training again" if trained else "training again"
    tuned = "once, for all corpora"
    cells = {
        "index, s": (f"{costs.vectors.seconds:.2f}", NOTHING, f"{costs.hybrid.seconds:.2f}"),
        "memory of the index, MiB": (
            f"{costs.vectors.mebibytes:.1f}",
            NOTHING,
            f"{costs.hybrid.mebibytes:.1f}",
        ),
        "memory of the model, MiB": (f"{costs.model_mebibytes:.0f}",) * 3,
        "one fact changed": (
            f"{1000 * costs.update_vector_seconds:.1f} ms",
            closed_update,
            f"{1000 * costs.update_seconds:.1f} ms",
        ),
    }

    def row(name: str) -> Callable[[str], str]:
        return lambda way: cells[name][0 if way.startswith("vector") else 1 if way == "closed_book" else 2]

    rows = [(name, row(name)) for name in cells]
    rows.append(("training", lambda way: closed_training if way == "closed_book" else tuned if "tuned" in way else "0"))
    note = f"The fine-tuned reader's own training: {costs.training}" if costs.training else ""
    return _by_way(comparison, "Costs", note, rows)


def difference_table(comparison: Comparison) -> Table:
    """Make the table of paired differences between ways."""
    ran = dict(ways_of(comparison))
    pairs = [
        ("hybrid − vectors, fine-tuned model", "hybrid_tuned", "vector_tuned"),
        ("hybrid − vectors, base model", "hybrid_base", "vector_base"),
        ("fine-tuned − base, hybrid retrieval", "hybrid_tuned", "hybrid_base"),
        ("fine-tuned − base, vector retrieval", "vector_tuned", "vector_base"),
        ("hybrid and fine-tuned − vectors and base", "hybrid_tuned", "vector_base"),
        ("hybrid and fine-tuned − closed book", "hybrid_tuned", "closed_book"),
    ]
    keys = ("contained", "exact", "f1", "raw_contained", "raw_exact")
    rows = [
        (title, *(told(difference(comparison, ours, other, key), signed=True) for key in keys))
        for title, ours, other in pairs
        if ours in ran and other in ran
    ]
    heads = ("", "accuracy", "exact match", "F1", "raw accuracy", "raw exact match")
    note = "Paired by question. An interval that excludes 0 tells the two apart."
    return Table("Differences", note, heads, tuple(rows))


def graph_table(comparison: Comparison, costs: Costs) -> Table:
    """Make the table of what the graph is worth beside the vectors alone, by type of question."""
    every = answerable(comparison.of("hybrid_tuned"))
    kinds: list[str | None] = [None, *sorted({record["type"] for record in every})]
    rows = []
    for kind in kinds if len(kinds) > 2 else kinds[:1]:
        count = sum(kind is None or record["type"] == kind for record in every)
        cells = [kind or "all", str(count)]
        for way in ("vector_tuned", "hybrid_tuned"):
            records = [r for r in answerable(comparison.of(way)) if kind is None or r["type"] == kind]
            cells += [told(mean(records, "gold_shown")), told(mean(records, "exact")), told(mean(records, "f1"))]
        cells.append(told(difference(comparison, "hybrid_tuned", "vector_tuned", "f1", kind), signed=True))
        rows.append(tuple(cells))
    heads = (
        "type",
        "questions",
        "vectors: all gold read",
        "exact",
        "F1",
        "hybrid: all gold read",
        "exact",
        "F1",
        "F1 gained",
    )
    extra, room = costs.hybrid.seconds - costs.vectors.seconds, costs.hybrid.mebibytes - costs.vectors.mebibytes
    note = (
        f"Fine-tuned model. Beside the vectors, the hybrid memory took {extra:.2f} s more to build "
        f"({costs.graph_seconds:.2f} s of it finding names and links) and {room:.1f} MiB more, for words, metadata, "
        f"journal and a graph of {costs.nodes:,} nodes and {costs.edges:,} edges."
    )
    return Table("What the graph is worth", note, heads, tuple(rows))


def verdicts(comparison: Comparison) -> list[str]:
    """Say of each expectation whether the figures bear it out."""
    ran = dict(ways_of(comparison))
    said = []
    for claim, ours, other in (
        ("hybrid retrieval answers more than vectors alone (fine-tuned model)", "hybrid_tuned", "vector_tuned"),
        ("hybrid retrieval answers more than vectors alone (base model)", "hybrid_base", "vector_base"),
        ("the fine-tuned model answers more than the base (hybrid retrieval)", "hybrid_tuned", "hybrid_base"),
    ):
        if ours not in ran or other not in ran:
            continue
        for name, key in (("exact match", "exact"), ("F1", "f1")):
            found = difference(comparison, ours, other, key)
            if found is None:
                continue
            word = "holds" if found.low > 0 else "does not hold" if found.mean <= 0 else "not shown: the interval has 0"
            said.append(f"{claim}, {name}: **{word}**, {told(found, signed=True)}.")
    records = _alone(comparison, "hybrid_tuned")
    if records:
        share = retrieval_share(records)
        word = "holds" if share <= 0.1 else "does not hold"
        said.append(f"retrieval takes at most 10% of an answer: **{word}**, {share:.1%}.")
    return said


def retrieval_share(records: Sequence[Record]) -> float:
    """Return the seconds of retrieval as a share of those of all stages, over all answers."""
    whole = sum(record["timings"]["total"] for record in records)
    return sum(record["timings"].get("retrieval", 0.0) for record in records) / whole if whole else 0.0


def _by_way(comparison: Comparison, title: str, note: str, rows: Sequence[tuple[str, Callable[[str], str]]]) -> Table:
    ways = ways_of(comparison)
    made = tuple((name, *(cell(way) for way, _ in ways)) for name, cell in rows)
    return Table(title, note, ("", *(label for _, label in ways)), made)


def _asked(comparison: Comparison, way: str, key: str) -> str:
    if way == "closed_book" and key in ("held", "gold_shown"):
        return NOTHING
    return told(mean(answerable(comparison.of(way)), key))


def _alone(comparison: Comparison, way: str) -> list[Record]:
    return [record for record in comparison.of(way) if record["alone"]]


def _given(comparison: Comparison, way: str) -> list[Record]:
    return [r for r in answerable(comparison.of(way)) if not r["abstained"] and r["faithful"] is not None]


def _faithful(record: Record) -> float:
    return float(record["faithful"])


def _wrong(record: Record) -> float:
    return float(not record["abstained"] and not record["contained"])


def _average(records: Sequence[Record], key: str) -> float:
    return float(np.mean([record[key] for record in records])) if records else 0.0


def _milliseconds(records: Sequence[Record], stage: str) -> str:
    values = [1000 * record["timings"][stage] for record in records if stage in record["timings"]]
    return f"{np.mean(values):,.1f} · {np.percentile(values, 95):,.1f}" if values else NOTHING


def _share(records: Sequence[Record]) -> str:
    return f"{retrieval_share(records):.1%}" if any("retrieval" in r["timings"] for r in records) else NOTHING
