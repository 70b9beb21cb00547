"""A child process that writes until it is killed, and the check of what it leaves behind.

Run as a script, it is the child: `python killing.py FOLDER SEED` does random writes and prints, for each change, a line
before it begins and one when it was acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
State = dict[str, str]


def change(state: State, seed: int, number: int) -> tuple[str, Any]:
    """Return one random change: what is added (id to text) or deleted (ids)."""
    choice = random.Random(seed * 1_000_003 + number)
    if state and choice.random() < 0.3:
        return "delete", choice.sample(sorted(state), min(len(state), choice.randint(1, 4)))
    ids = [f"p{choice.randint(0, 40)}" for _ in range(choice.randint(1, 8))]
    return "add", {
        identity: f"Text {seed} {number} of {identity} " + "word " * choice.randint(0, 300) for identity in ids
    }


def applied(state: State, kind: str, what: Any) -> State:
    """Return the state after a change."""
    if kind == "delete":
        return {identity: text for identity, text in state.items() if identity not in what}
    return {**state, **what}


def run_and_kill(folder: Path, seed: int, delay: float) -> None:
    """Let a child write, kill it, and note down what it had begun and what was acknowledged."""
    path = os.pathsep.join([str(HERE), *[entry for entry in sys.path if entry]])
    with (folder.parent / "log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(seed)],
            stdout=log,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert child.stderr is not None
        first = child.stderr.readline()
        if first != b"ready\n":
            raise RuntimeError((first + child.stderr.read()).decode())
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        rest = child.stderr.read()
        child.wait()
        assert not rest, rest.decode()


def verify(folder: Path) -> int:
    """Check that the memory is the acknowledged state, or that with the one change that was under way as a whole.

    Returns:
        The number of acknowledged changes so far.
    """
    from memory_helpers import FakeEmbedder, FakeExtractor, FakeGraph
    from test_store import assert_whole, contents

    from hybridmem_plugins.memory.store import MemoryStore

    state: State = {}
    pending: tuple[str, Any] | None = None
    acknowledged = 0
    log = folder.parent / "log"
    for line in log.read_bytes().split(b"\n")[:-1]:
        event = json.loads(line)
        if event[0] == "begin":
            pending = (event[1], event[2])
        else:
            assert pending is not None
            state, pending, acknowledged = applied(state, *pending), None, acknowledged + 1
    with MemoryStore(folder, embedder=FakeEmbedder(), extractor=FakeExtractor(), graph=FakeGraph()) as store:
        found = {identity: passage.text for identity, passage in contents(store).items()}
        allowed = [state] if pending is None else [state, applied(state, *pending)]
        assert found in allowed, (len(found), len(state), pending)
        assert_whole(store)
    # The next child goes on from what is there.
    assert acknowledged or pending is not None or not found
    log.write_bytes(
        b"".join(json.dumps(event).encode() + b"\n" for event in (["begin", "add", found], ["done"]) if found)
    )
    return acknowledged


def main() -> None:
    """Write until killed."""
    from memory_helpers import FakeEmbedder, FakeExtractor, FakeGraph
    from test_store import contents

    from hybridmem_plugins.memory import coordinator
    from hybridmem_plugins.memory.store import MemoryStore
    from hybridmem_plugins.passage import Passage

    coordinator.SAVE_AFTER = 20  # so that the kill also hits the writing of caches
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    store = MemoryStore(folder, embedder=FakeEmbedder(), extractor=FakeExtractor(), graph=FakeGraph())
    state = {identity: passage.text for identity, passage in contents(store).items()}
    print("ready", file=sys.stderr, flush=True)
    for number in range(10**6):
        kind, what = change(state, seed, number)
        os.write(1, json.dumps(["begin", kind, what]).encode() + b"\n")
        if kind == "delete":
            store.delete(what)
        else:
            store.add([Passage(text, id=identity) for identity, text in what.items()])
        os.write(1, b'["done"]\n')
        state = applied(state, kind, what)
        if number % 25 == 24:
            store.compact()


if __name__ == "__main__":
    main()
