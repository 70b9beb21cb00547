"""Readers beside a writer: threads in one process, then processes, for a while; every answer is checked.

    python benchmarks/concurrency.py [--seconds 60]

16 threads search while one writes; then 4 processes search while one writes. Passages are changed in pairs, in one
step: a search that sees one of a pair in another generation than the other, or an older one than before, is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from hybridmem_plugins import HybridMemory, Passage
from results import write_section

PAIRS = 6


def pair(number: int, generation: int) -> list[Passage]:
    """Two passages that are always changed together, the second one over a link."""
    metadata = {"generation": generation, "pair": number}
    return [
        Passage(f"Left side, which knows Right Half{number} well.", f"Left Half{number}", f"left{number}", metadata),
        Passage("Right side of the same thing.", f"Right Half{number}", f"right{number}", metadata),
    ]


def write(memory: HybridMemory, end: float) -> int:
    """Change all pairs again and again; delete and add one of them now and then."""
    generation = 0
    while time.time() < end:
        generation += 1
        for number in range(PAIRS):
            memory.add(pair(number, generation))
        if generation % 10 == 0:
            memory.delete(["left0", "right0"])
        if generation % 50 == 0:
            memory.compact()
    return generation


def look(memory: HybridMemory, newest: list[int], number: int) -> None:
    """Search for a pair and check what comes back."""
    hits = memory.search(f"What does Left Half{number} know?", k=4, filter={"pair": number})
    found = {hit.passage.id: hit.passage.metadata["generation"] for hit in hits}
    assert set(found) in ({f"left{number}", f"right{number}"}, set()), found
    assert found or number == 0, "a passage was missing that is never deleted"
    assert len(set(found.values())) <= 1, f"half a change was seen: {found}"
    if found:
        generation = next(iter(found.values()))
        assert generation >= newest[number], f"generation {generation} after {newest[number]}"
        newest[number] = generation


def read(memory: HybridMemory, end: float) -> int:
    """Look until the end and return how often."""
    newest, looks = [0] * PAIRS, 0
    while time.time() < end:
        look(memory, newest, looks % PAIRS)
        looks += 1
    return looks


def threads(seconds: float, folder: Path, readers: int = 16) -> tuple[int, int, list[BaseException]]:
    """Return how often was searched and written, and the errors."""
    errors: list[BaseException] = []
    counts: list[int] = []
    with HybridMemory(path=folder) as memory:
        memory.add([passage for number in range(PAIRS) for passage in pair(number, 0)])
        end = time.time() + seconds

        def run() -> None:
            try:
                counts.append(read(memory, end))
            except BaseException as error:
                errors.append(error)

        started = [threading.Thread(target=run) for _ in range(readers)]
        for thread in started:
            thread.start()
        written = write(memory, end)
        for thread in started:
            thread.join(60)
            if thread.is_alive():
                errors.append(TimeoutError("a reader did not end"))
    return sum(counts), written, errors


def processes(seconds: float, folder: Path, readers: int = 4) -> tuple[int, list[str]]:
    """Return how often was searched, and the errors."""
    with HybridMemory(path=folder) as memory:
        memory.add([passage for number in range(PAIRS) for passage in pair(number, 0)])
    end = time.time() + seconds + 5
    kinds = ["write", *["read"] * readers]
    commands = [[sys.executable, __file__, "--child", kind, str(folder), str(end)] for kind in kinds]
    children = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    looks, errors = 0, []
    for kind, child in zip(kinds, children, strict=True):
        output, error = child.communicate(timeout=seconds + 120)
        if child.returncode:
            errors.append(error[-500:])
        elif kind == "read":
            looks += int(output)
    return looks, errors


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, folder, end = args.child
        with HybridMemory(path=folder) as memory:
            print({"read": read, "write": write}[kind](memory, float(end)))
        return
    with tempfile.TemporaryDirectory() as parent:
        searched, written, errors = threads(args.seconds, Path(parent) / "threads")
        looks, failures = processes(args.seconds, Path(parent) / "processes")
    lines = [
        f"`python benchmarks/concurrency.py --seconds {args.seconds:g}`",
        "",
        f"16 threads searched {searched:,} times beside one that wrote {written:,} generations: {len(errors)} errors "
        f"or wrong answers. 4 processes searched {looks:,} times beside one that wrote: {len(failures)} errors or "
        f"wrong answers. ({os.cpu_count()} cores, {args.seconds:g} s each.)",
    ]
    print("\n".join(lines), *errors, *failures, sep="\n")
    write_section(args.results, "Concurrency", lines)
    raise SystemExit(1 if errors or failures else 0)


if __name__ == "__main__":
    main()
