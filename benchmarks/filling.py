"""Fill a memory by one process, by two and by Ray with a worker killed on the way, and compare graphs and answers.

python benchmarks/filling.py [--passages 20000] [--workers 2]
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from generated import Corpus
from hybridmem_plugins import HybridMemory
from hybridmem_plugins.filling import fill
from results import write_section


def content(memory: HybridMemory, questions: list[str]) -> tuple[list, list]:
    """Return all that can be seen of a memory."""
    graph = memory.graph
    edges = sorted((u, v, key, repr(data)) for u, v, key, data in graph.edges(keys=True, data=True))
    return edges, [[(hit.passage.id, hit.score, hit.provenance) for hit in memory.search(q)] for q in questions]


def kill_a_worker(name: str, stopped: threading.Event) -> list[int]:
    """Kill the first busy process whose command line has a name in it; return its number in a list, later."""
    killed: list[int] = []

    def look() -> None:
        while not stopped.wait(0.5) and not killed:
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    ticks = int((file.parent / "stat").read_text().rpartition(")")[2].split()[11])
                except (OSError, ValueError, IndexError):
                    continue
                if name in command and ticks > 3 * os.sysconf("SC_CLK_TCK") and int(file.parent.name) != os.getpid():
                    os.kill(int(file.parent.name), signal.SIGKILL)
                    killed.append(int(file.parent.name))
                    return

    threading.Thread(target=look, daemon=True).start()
    return killed


def main() -> None:
    """Run, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "RESULTS.md")
    args = parser.parse_args()
    corpus = Corpus(args.passages)
    passages, questions = list(corpus.passages()), corpus.questions(50)

    def alone(memory: HybridMemory) -> None:
        for start in range(0, len(passages), 1000):
            memory.add(passages[start : start + 1000])

    ways: dict[str, Callable[[HybridMemory], object]] = {
        "one process": alone,
        f"{args.workers} processes": lambda memory: fill(memory, passages, engine="processes", workers=args.workers),
        f"Ray, {args.workers} workers": lambda memory: fill(memory, passages, engine="ray", workers=args.workers),
    }
    lines = ["| way | passages/s | workers killed | graph and answers |", "|---|--:|--:|---|"]
    expected = None
    for name, way in ways.items():
        stopped = threading.Event()
        marks = {"Ray": "ray::", str(args.workers): "spawn_main"}
        killed = kill_a_worker(marks[name.split(",")[0].split(" ")[0]], stopped) if name != "one process" else []
        with tempfile.TemporaryDirectory() as folder, HybridMemory(path=Path(folder) / "m") as memory:
            started = time.perf_counter()
            way(memory)
            seconds = time.perf_counter() - started
            stopped.set()
            found = content(memory, questions)
            expected = expected or found
            same = "the same" if found == expected else "DIFFERENT"
        lines.append(f"| {name} | {len(passages) / seconds:,.0f} | {len(killed)} | {same} |")
        print(lines[-1], flush=True)
    head = [f"`python benchmarks/filling.py --passages {args.passages} --workers {args.workers}`", ""]
    write_section(args.results, "Filling by many workers", [*head, *lines])


if __name__ == "__main__":
    main()
