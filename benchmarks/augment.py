"""Measure the augmenter: rows a second on one core, memory over many rows, label checks.

    python benchmarks/augment.py --data ../shared/data [--rows 10000 200000]

Rows are built from `qa/train`; hard negatives are cached by a first pass over all examples. Times are of this process's
CPU (one thread), so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from hybridmem_plugins.augmentation import NoisyContextAugmenter
from hybridmem_plugins.augmentation.examples import read_rows
from hybridmem_plugins.augmentation.labels import check_row


def load(data):
    return [row for path in sorted(Path(data, "qa", "train").glob("*.jsonl.gz")) for row in read_rows(path)]


def build(rows, copies=1):
    contexts = {row["context"]: {"text": row["context"], "title": row["title"]} for row in rows}
    return NoisyContextAugmenter(seed=0).build_dataset(rows, contexts.values(), copies=copies)


def speed(data):
    dataset = build(load(data))
    timings = {}
    for name in ("first pass", "hard negatives cached"):
        start, wall = time.process_time(), time.perf_counter()
        count = sum(1 for _ in dataset)
        timings[name] = (count / (time.process_time() - start), count / (time.perf_counter() - wall))
    start = time.process_time()
    for row in itertools.islice(dataset, 5000):
        json.dumps(row)
    written = time.process_time() - start
    sound = sum(not check_row(row, dataset.lookup) for row in itertools.islice(dataset, 5000))
    return {"timings": timings, "with JSON, rows a second": 5000 / written, "sound of 5000": sound}


def memory(data, count):
    rows = load(data)
    for _ in itertools.islice(build(rows, copies=1 + count // len(rows)), count):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=os.environ.get("HYBRIDMEM_DATA", "../shared/data"))
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 200_000], help="row counts to take memory at")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory(options.data, options.memory_of))
        return
    measured = speed(options.data)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| measure | value |\n|---|---|")
    for name, (cpu, wall) in measured["timings"].items():
        print(f"| rows a second of CPU, {name} | {cpu:,.0f} ({wall:,.0f} of wall time) |")
    print(f"| rows a second of CPU, made and written as JSON | {measured['with JSON, rows a second']:,.0f} |")
    print(f"| rows that pass the label check, of 5,000 | {measured['sound of 5000']:,} |")
    for count in options.rows:
        # A process of its own, as the peak of one never falls.
        command = [sys.executable, __file__, "--data", options.data, "--memory-of", str(count)]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| peak memory after {count:,} rows | {peak:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
