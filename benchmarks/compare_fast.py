"""`hybridmem compare` with the decoder of `fast_llama.py`, for a machine with little time.

    python benchmarks/compare_fast.py DATA OUT [--limit N]

Replies and reports are those of `hybridmem compare --dtype bfloat16` to within rounding; seconds of generation are this
decoder's, which is faster.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from fast_llama import FastLocal
from hybridmem_plugins.comparison.costs import measure_costs
from hybridmem_plugins.comparison.questions import load_benchmark
from hybridmem_plugins.comparison.report import write_report
from hybridmem_plugins.comparison.ways import CLOSED, TUNED, Settings, compare
from hybridmem_plugins.system.models import DEFAULT_ADAPTER


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    benchmark = load_benchmark(options.data)
    if options.limit:
        benchmark = replace(benchmark, questions=benchmark.questions[: options.limit])
    local = FastLocal(adapters={TUNED: DEFAULT_ADAPTER, CLOSED: DEFAULT_ADAPTER})
    weights = sum(one.numel() * one.element_size() for one in local.model.parameters()) / 2**20
    done = []

    def tell(record):
        done.append(record)
        if len(done) % 20 == 0:
            print(len(done), record["way"], flush=True)

    comparison = compare(benchmark, options.output, local=local, settings=Settings(), on_record=tell)
    costs = measure_costs(options.data, benchmark, model_mebibytes=weights, adapter=DEFAULT_ADAPTER, closed_book=None)
    with (options.output / "records.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in comparison.records)
    shown = options.data if options.data == "samples" else "DATA"
    asked = f"python benchmarks/compare_fast.py {shown} OUT" + (f" --limit {options.limit}" if options.limit else "")
    for written in write_report(comparison, costs, options.output, asked):
        print("Wrote", written)


if __name__ == "__main__":
    main()
