from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from memory_helpers import FakeEmbedder, OpenStore
from test_store import assert_whole, contents

from hybridmem_plugins import HybridMemory
from hybridmem_plugins.errors import MemoryLockedError
from hybridmem_plugins.memory.store import MemoryStore
from hybridmem_plugins.memory.workers import Workers
from hybridmem_plugins.passage import Passage

HERE = Path(__file__).parent


def pair(number: int, generation: int) -> list[Passage]:
    """Two passages that are always changed together."""
    return [
        Passage(f"generation{generation} left Side", id=f"left{number}", metadata={"generation": generation}),
        Passage(f"generation{generation} right Side", id=f"right{number}", metadata={"generation": generation}),
    ]


def look(store: MemoryStore) -> int:
    """Check that both halves of every pair are of one generation in every tier; return the first one's."""
    with store.reading():
        rows = store.rows_of([f"{side}{number}" for number in range(4) for side in ("left", "right")])
        assert None not in rows
        passages = store.passages(rows)  # type: ignore[arg-type]
        for left, right in zip(passages[::2], passages[1::2], strict=True):
            assert left.metadata == right.metadata
        generation = int(passages[0].metadata["generation"])
        found = store.lexical.search([f"generation{generation}"], 99)[0].tolist()
        assert set(rows[:2]) <= set(found)
        allowed = store.allowed({"generation": generation})
        assert allowed is not None
        assert set(rows[:2]) <= set(allowed.nonzero()[0].tolist())
        assert store.vectors is not None
        nearest, _ = store.vectors.search(FakeEmbedder().embed_query("right side"), 3, allowed)
        assert set(nearest.tolist()) <= set(found)
        assert set(store.graph.known) == set(rows)  # type: ignore[attr-defined]
        return generation


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_threads_read_beside_a_writer(open_store: OpenStore, tmp_path: Path, where: str) -> None:
    store = open_store(None if where == "memory" else tmp_path / "m")
    store.add([passage for number in range(4) for passage in pair(number, 0)])
    errors: list[BaseException] = []
    stop = threading.Event()
    looks = [0] * 16

    def read(reader: int) -> None:
        try:
            last = 0
            while not stop.is_set():
                generation = look(store)
                assert generation >= last
                last = generation
                looks[reader] += 1
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(16)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 4
    generation = 0
    while time.monotonic() < end and not stop.is_set():
        generation += 1
        for number in range(4):
            store.add(pair(number, generation))
        if generation % 10 == 0:
            store.compact()
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not errors, errors[0]
    assert generation > 3
    assert min(looks) > 3
    assert_whole(store)


def test_many_writing_threads(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "m")
    errors: list[BaseException] = []

    def write(writer: int) -> None:
        try:
            for number in range(10):
                store.add([Passage(f"writer {writer} number {number}", id=f"{writer}-{number}")])
                if number % 3 == 0:
                    assert store.delete([f"{writer}-{number}"]) == [f"{writer}-{number}"]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0]
    assert set(contents(store)) == {f"{w}-{n}" for w in range(8) for n in range(10) if n % 3}
    assert_whole(store)


CHILD = """
import sys
sys.path[:0] = {paths!r}
from memory_helpers import *
from test_concurrency import *
store = MemoryStore({folder!r}, embedder=FakeEmbedder(), extractor=FakeExtractor(), graph=FakeGraph())
{body}
store.close()
"""

WRITER = """
print("ready", flush=True)
for generation in range(1, 60):
    for number in range(4):
        store.add(pair(number, generation))
    if generation % 20 == 0:
        store.compact()
"""

READER = """
print("ready", flush=True)
last, looks = 0, 0
while last < 59:
    generation = look(store)
    assert generation >= last
    last, looks = generation, looks + 1
assert looks > 5, looks
"""


def child(folder: Path, body: str) -> subprocess.Popen[str]:
    paths = [str(HERE), *[path for path in sys.path if path]]
    code = CHILD.format(paths=paths, folder=str(folder), body=body)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_read_beside_a_writing_one(open_store: OpenStore, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    store = open_store(folder)
    store.add([passage for number in range(4) for passage in pair(number, 0)])
    children = [child(folder, READER), child(folder, READER), child(folder, WRITER)]
    try:
        for process in children:
            output, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
            assert output == "ready\n"
    finally:
        for process in children:
            process.kill()
    assert look(store) == 59  # committed by another process, seen by the next search
    assert_whole(store)


def test_changes_of_another_process_are_seen_and_kept(open_store: OpenStore, tmp_path: Path) -> None:
    """Two stores on one folder behave like two processes."""
    one, other = open_store(tmp_path / "m"), open_store(tmp_path / "m")
    assert len(one) == len(other) == 0
    one.add([Passage("from one", id="a")])
    assert set(contents(other)) == {"a"}
    other.add([Passage("from other", id="b"), Passage("replaced", id="a")])
    one.add([Passage("later", id="c")])
    assert {key: passage.text for key, passage in contents(one).items()} == {
        "a": "replaced",
        "b": "from other",
        "c": "later",
    }
    one.compact()
    one.delete(["b"])
    one.add([Passage("last", id="d")])
    assert contents(one) == contents(other)
    for store in (one, other):
        assert_whole(store)
    one.close()
    other.add([Passage("after closing", id="e")])
    other.close()
    assert set(contents(open_store(tmp_path / "m"))) == {"a", "c", "d", "e"}


def test_number_and_graph_are_those_of_all_processes(tmp_path: Path) -> None:
    with HybridMemory(path=tmp_path / "m") as memory, HybridMemory(path=tmp_path / "m") as other:
        other.add([Passage("One king", title="Lothair", id="1")])
        assert len(memory.graph) > 0
        assert len(memory) == 1
        other.delete(["1"])
        assert len(memory.graph) == 0
        assert len(memory) == 0


def test_a_second_writer_waits_and_then_is_told(open_store: OpenStore, tmp_path: Path) -> None:
    one, other = open_store(tmp_path / "m"), open_store(tmp_path / "m", write_timeout=0.3)
    one.add([Passage("x", id="x")])
    with one._journal.transaction():
        before = time.monotonic()
        with pytest.raises(MemoryLockedError, match="another process"):
            other.add([Passage("y", id="y")])
        assert 0.2 < time.monotonic() - before < 5
        assert set(contents(other)) == {"x"}  # reading goes on
    other.add([Passage("y", id="y")])
    assert set(contents(one)) == {"x", "y"}


def test_a_writer_that_readers_keep_out_is_told(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(tmp_path / "m", write_timeout=0.2)
    store.add([Passage("x", id="x")])
    entered, leave = threading.Event(), threading.Event()

    def read() -> None:
        with store.reading():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait(10)
    with pytest.raises(MemoryLockedError, match="searches"):
        store.add([Passage("y", id="y")])
    leave.set()
    thread.join(10)
    assert set(contents(store)) == {"x"}
    store.add([Passage("y", id="y")])
    assert_whole(store)


def test_a_snapshot_is_not_disturbed_by_another_process(open_store: OpenStore, tmp_path: Path) -> None:
    one, other = open_store(tmp_path / "m"), open_store(tmp_path / "m")
    one.add([Passage("old", id="a")])
    with one.reading():
        rows = one.rows_of(["a"])
        other.add([Passage("new", id="a")])
        other.delete(["a"])
        assert [passage.text for passage in one.passages(rows)] == ["old"]  # type: ignore[arg-type]
    assert len(contents(one)) == 0


def test_a_passage_changed_elsewhere_while_it_is_embedded(open_store: OpenStore, tmp_path: Path) -> None:
    one = open_store(tmp_path / "m")
    one.add([Passage("same", id="a")])

    class Meddling(FakeEmbedder):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if "new" in texts:
                one.add([Passage("meddled", id="a")])
            return super().embed_documents(texts)

    other = open_store(tmp_path / "m", embedder=Meddling())
    other.add([Passage("same", id="a"), Passage("new", id="b")])  # "a" is unchanged when looked at first
    assert {key: passage.text for key, passage in contents(one).items()} == {"a": "same", "b": "new"}
    assert_whole(other)


FORKING = """
import os, sys, threading
sys.path[:0] = {paths!r}
from memory_helpers import *

def in_child(call):
    process = os.fork()
    if not process:
        threading.Timer(20, os._exit, [3]).start()  # where it hangs
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    return process

def wait(process):
    assert os.waitpid(process, 0)[1] == 0

store = MemoryStore({folder!r}, embedder=FakeEmbedder(), graph=FakeGraph(), engine="hnswlib")
store.add([Passage(f"passage {{i}}", id=f"p{{i}}") for i in range(60)])
query = FakeEmbedder().embed_query("passage 7")

def look(count):
    with store.reading():
        assert len(store.vectors.search(query, count)[0]) == count

look(60)
# The parent's thread takes no queued work in the child.
wait(in_child(lambda: (store.add([Passage("first", id="c1")]), look(61))))
look(61)
# What was queued before the fork is searched without the graph.
held = threading.Event()
store.vectors._graph._graph._worker.submit(held.wait)
store.add([Passage("second", id="c2")])
process = in_child(lambda: (store.add([Passage("third", id="c3")]), look(63)))
held.set()
wait(process)
# Another thread is writing.
ended = threading.Event()

def write():
    while not ended.is_set():
        store.add([Passage(f"{{os.urandom(8)}}", id="again")])

writer = threading.Thread(target=write)
writer.start()
for _ in range(5):
    wait(in_child(lambda: (look(60), store.add([Passage("by a child", id="child")]))))
ended.set()
writer.join()
# The parent closes first, and whoever comes after it; none takes away the write-ahead log that the children use.
closed, told = os.pipe()
children = [
    in_child(lambda: (look(63), os.read(closed, 1), store.add([Passage("fourth", id="c4")]), store.close())),
    in_child(lambda: (os.read(closed, 1), store.add([Passage("fifth", id="c5")]))),
]
store.close()
MemoryStore({folder!r}, embedder=FakeEmbedder(), graph=FakeGraph()).close()
os.write(told, b"..")
for process in children:
    wait(process)
store = MemoryStore({folder!r}, embedder=FakeEmbedder(), graph=FakeGraph())
assert len(store) == 67 and store.check().ok
store.close()
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_that_ask_at_once_after_a_fork_share_one_pool() -> None:
    pool = Workers(2, "forked-pool")
    pool.submit(int).result()
    process = os.fork()
    if not process:
        try:
            threading.Timer(20, os._exit, [3]).start()  # where it hangs
            making, start, turn = ThreadPoolExecutor.__init__, threading.Barrier(8), itertools.count()

            def slowly(*arguments: Any, **options: Any) -> None:
                time.sleep(0.05 * next(turn))
                making(*arguments, **options)

            ThreadPoolExecutor.__init__ = slowly  # type: ignore[method-assign]
            askers = [threading.Thread(target=lambda: (start.wait(), pool.submit(int).result())) for _ in range(8)]
            for asker in askers:
                asker.start()
            for asker in askers:
                asker.join()
            os._exit(int(sum(thread.name.startswith("forked-pool") for thread in threading.enumerate()) > 2))
        finally:
            os._exit(2)
    assert os.waitpid(process, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_goes_on(tmp_path: Path) -> None:
    paths = [str(HERE), *[path for path in sys.path if path]]
    code = FORKING.format(paths=paths, folder=str(tmp_path / "m"))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "forked\n", done.stderr
