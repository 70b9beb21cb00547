"""Measure the augmenter: rows a second on one core, memory over many rows, label checks.

    python benchmarks/augment.py --data ../shared/data [--rows 10000 200000] [--results FILE]

Rows are built from `qa/train` with the default mix; hard negatives are cached by a first pass over all examples. Times
are of this process's CPU (one thread), so that other work on the machine counts less. For memory, rows are written to a
file as they are made, and the process's memory is read as the numbers of rows are passed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import hybridmem_plugins
from hybridmem_plugins.augmentation import NoisyContextAugmenter
from hybridmem_plugins.augmentation.examples import read_rows
from hybridmem_plugins.augmentation.labels import check_row
from results import write_section


def load(data):
    return [row for path in sorted(Path(data, "qa", "train").glob("*.jsonl.gz")) for row in read_rows(path)]


def build(rows, examples=None):
    contexts = {row["context"]: {"text": row["context"], "title": row["title"]} for row in rows}
    return NoisyContextAugmenter(seed=0).build_dataset(rows if examples is None else examples, contexts.values())


def rate(rows):
    start, count = time.process_time(), sum(1 for _ in rows)
    return count / (time.process_time() - start)


def speed(dataset):
    first = rate(dataset)
    later = [rate(dataset) for _ in range(3)]
    written = rate(json.dumps(row) for row in dataset)
    return [
        ("rows a second of CPU, first pass (indexes the chunks, ranks hard negatives)", f"{first:,.0f}"),
        ("rows a second of CPU, hard negatives cached, lowest of three passes", f"{min(later):,.0f}"),
        ("the same, written as JSON too", f"{written:,.0f}"),
    ]


def resident():
    """Give this process's memory in MiB, now and at its peak (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]


def anew(rows):
    """Stream the examples again and again as other questions, so that nothing kept of one serves the next."""
    for turn in itertools.count():
        for row in rows:
            yield {**row, "id": f"{row['id']}~{turn}", "question": f"{row['question']} ({turn})"}


def memory(rows, counts):
    """Write rows to a file, and read the memory each time so many are made."""
    measured = []
    with tempfile.TemporaryFile("w") as file:
        for number, row in enumerate(build(rows, anew(rows)), 1):
            file.write(json.dumps(row) + "\n")
            if number in counts:
                now, peak = resident()
                size = f"{file.tell() / 2**20:,.0f} MiB written"
                name = f"memory after {number:,} rows of as many questions, MiB"
                measured.append((name, f"{now:,.0f} (peak {peak:,.0f}; {size})"))
                print(*measured[-1], flush=True)
            if number == max(counts):
                return measured
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("HYBRIDMEM_DATA", "../shared/data"))
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 50_000, 100_000, 200_000])
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    rows = load(options.data)
    dataset = build(rows)
    measured = speed(dataset)
    sound = sum(not check_row(row, dataset.lookup) for row in itertools.islice(dataset, 5000))
    measured.append(("rows that pass the label check, of 5,000", f"{sound:,}"))
    del dataset
    measured += memory(rows, options.rows) if options.rows else []
    lines = [
        f"`python benchmarks/augment.py --rows {' '.join(map(str, options.rows))}`",
        "",
        f"hybridmem-plugins {hybridmem_plugins.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, one thread (load average at the start {load_before:.1f}); {len(rows):,} questions of "
        "`qa/train`, default mix. Goals: 2,000 rows a second with hard negatives cached, and memory that stays flat.",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in measured),
    ]
    print("\n".join(lines))
    write_section(options.results, "Noise augmentation", lines)


if __name__ == "__main__":
    main()
