"""PostgreSQL down, slow, cut off in the middle of a write, killed, or refusing: clear errors, never half a passage."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from proxy import Proxy

from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.engines import open_engine
from hybridmem_plugins.errors import EngineError, MemoryLockedError
from hybridmem_plugins.samples import load_corpus

pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")

SECRET = "hunter2-Zebra"
CORPUS = load_corpus()


def dial(postgres: str) -> Callable[[], socket.socket]:
    """Return what connects to the server behind an address."""
    parts = urlsplit(postgres)
    host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
    if host.startswith("/"):

        def by_file() -> socket.socket:
            made = socket.socket(socket.AF_UNIX)
            made.connect(f"{host}/.s.PGSQL.{parts.port or 5432}")
            return made

        return by_file
    return lambda: socket.create_connection((host, parts.port or 5432))


@pytest.fixture
def proxy(postgres: str) -> Iterator[Proxy]:
    with Proxy(dial(postgres)) as proxy:
        yield proxy


def through(proxy: Proxy, address: str, timeout: float = 1.5) -> str:
    """Return the address of a memory by way of the proxy, with a password in it."""
    parts = urlsplit(address)
    schema = parse_qs(parts.query)["schema"][0]
    return (
        f"postgresql://{parts.username or 'postgres'}:{SECRET}@127.0.0.1:{proxy.port}{parts.path}"
        f"?schema={schema}&timeout={timeout}&sslmode=disable&gssencmode=disable"
    )


def test_a_question_costs_at_most_six_round_trips(proxy: Proxy, address: str) -> None:
    """Counted on the wire, not only by the store itself."""
    from hybridmem_plugins.samples import load_questions

    questions = [q.question for q in load_questions()] + [
        "Where was Robrt Denard born?",  # misspelt: one trip more
        "Did Robrt Denard and Fujio Masuoca meet?",
        "and or not",
        "zzz qqq",
    ]
    with HybridMemory(path=through(proxy, address, 10)) as memory:
        memory.add(CORPUS)
        memory.search("warm up")
        most = 0
        for question in questions:
            for allowed in (None, {"kind": {"$exists": False}}):
                before = proxy.syncs
                memory.search(question, filter=allowed)
                trips = memory.store.last_trips
                memory.store._connections.settle()  # the transaction ends after the answer
                assert trips <= 6, question
                assert proxy.syncs - before == trips, question
                most = max(most, trips)
        assert most >= 5


def test_a_distant_server_is_waited_for_six_times(proxy: Proxy, address: str) -> None:
    with HybridMemory(path=through(proxy, address, 10)) as memory:
        memory.add(CORPUS)
        memory.search("warm up")
        near = min(timed(lambda: memory.search("Where was Robrt Denard born?")) for _ in range(3))
        proxy.delay = 0.1
        far = min(timed(lambda: memory.search("Where was Robrt Denard born?")) for _ in range(3))
        proxy.delay = 0.0
        assert far - near < 6 * 0.1 + 0.05 + 0.1


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_a_server_that_is_not_there_is_an_error_at_once(caplog: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.perf_counter()
    with pytest.raises(EngineError, match="refused") as caught:
        HybridMemory(path=f"postgresql://ann:{SECRET}@127.0.0.1:{port}/db?timeout=5")
    assert time.perf_counter() - start < 5
    assert_no_secret(caught.value, caplog.text)


def test_a_server_that_accepts_and_says_nothing_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.perf_counter()
        with pytest.raises(EngineError):
            HybridMemory(path=f"postgresql://ann:{SECRET}@127.0.0.1:{mute.getsockname()[1]}/db?timeout=2")
        assert time.perf_counter() - start < 4


def test_a_wrong_password_is_a_clear_error_without_it(postgres: str, query: Any, caplog: Any, request: Any) -> None:
    (hba,) = query("SHOW hba_file")[0]
    try:
        with open(hba) as file:
            before = file.read()
        with open(hba, "w") as file:
            file.write("local all guarded scram-sha-256\nhost all guarded 127.0.0.1/32 scram-sha-256\n" + before)
    except OSError:
        pytest.skip("the server's pg_hba.conf is not ours to write")

    def restore() -> None:
        with open(hba, "w") as file:
            file.write(before)
        query("SELECT pg_reload_conf()")
        query("DROP ROLE guarded")

    request.addfinalizer(restore)
    query("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    query("SELECT pg_reload_conf()")
    parts = urlsplit(postgres)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(EngineError, match="password authentication failed") as caught:
        HybridMemory(path=f"postgresql://guarded:{SECRET}@{parts.path}?{parts.query}")
    assert_no_secret(caught.value, caplog.text)


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://ann:{SECRET}@host:port/db",
        f"postgresql://ann:{SECRET}@[bad/db",
        f"postgresql://host/db?password={SECRET}&unknown=1",
        f"postgresql://ann:{SECRET}@host/db?schema=Bad-Name",
        f"postgresql://ann:{SECRET}@host/db?timeout=-1",
        f"weaviate://ann:{SECRET}@host",
    ],
)
def test_a_bad_address_is_refused_without_showing_it(address: str, caplog: Any) -> None:
    with pytest.raises(ValueError, match=r".{20}") as caught:
        HybridMemory(path=address)
    assert_no_secret(caught.value, caplog.text)


def test_nothing_shows_the_password(proxy: Proxy, address: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    with HybridMemory(path=through(proxy, address)) as memory:
        memory.add(CORPUS[:5])
        shown = [repr(memory.store), str(memory.store), repr(memory.store._connections), repr(memory.store._address)]
        assert SECRET not in " ".join(shown) + memory.store.address
        proxy.stalled = True
        with pytest.raises(EngineError) as caught:
            memory.search("anything")
        proxy.stalled = False
        assert_no_secret(caught.value, caplog.text)


def assert_no_secret(error: BaseException, log: str) -> None:
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error) + log


def test_a_silent_server_is_given_up_on_and_asked_again_later(proxy: Proxy, address: str) -> None:
    with HybridMemory(path=through(proxy, address)) as memory:
        memory.add(CORPUS[:10])
        before = memory.search("memory cell")
        proxy.stalled = True
        for call in (lambda: memory.search("memory cell"), lambda: memory.add(CORPUS[10:])):
            start = time.perf_counter()
            with pytest.raises(EngineError, match=r"no answer within|timeout"):
                call()
            assert time.perf_counter() - start < 4
        proxy.stalled = False
        assert memory.search("memory cell") == before


def test_a_busy_writer_is_waited_for_so_long(address: str, query: Any) -> None:
    import psycopg

    with HybridMemory(path=f"{address}&timeout=1") as memory:
        memory.add(CORPUS[:3])
        server, _, schema = address.partition("schema=")
        with psycopg.connect(server.rstrip("?&")) as other:
            other.execute(f"SELECT * FROM {schema}.state FOR UPDATE")
            with pytest.raises(MemoryLockedError, match="another writer"):
                memory.add(CORPUS[3:6])
            assert len(memory.search("memory", 5)) == 3  # readers do not wait
        memory.add(CORPUS[3:6])
        assert len(memory) == 6


def statements_sent(proxy: Proxy, address: str) -> int:
    """Count the messages of one write, so that the line can be cut at each."""
    sent: list[int] = []
    with HybridMemory(path=through(proxy, address)) as memory:
        proxy.cut = lambda data: bool(sent.append(len(data)))
        memory.add(CORPUS[10:20])
        memory.delete(["nobody", CORPUS[12].id or ""])
        proxy.cut = lambda data: False
    return len(sent)


def test_a_line_cut_at_any_moment_of_a_write_leaves_no_half(proxy: Proxy, address: str) -> None:
    """Cut before the n-th message arrives, and add again: as if nothing had happened."""
    with open_engine(address) as witness:
        total = statements_sent(proxy, address)
        witness.delete([str(p.id) for p in CORPUS])
        with HybridMemory(path=through(proxy, address)) as memory:
            memory.add(CORPUS[:10])
        failed = 0
        for number in range(1, total + 1, 3):
            count = iter(range(1, 10_000))
            with HybridMemory(path=through(proxy, address)) as memory:
                proxy.cut = lambda data, count=count, number=number: next(count) == number
                replaced = [Passage(f"{p.text} Again {number}.", p.title, p.id) for p in CORPUS[8:16]]
                try:
                    memory.add(replaced)
                except EngineError:
                    failed += 1
                    assert witness.check().problems == []
                    stored = {p.id: p.text for p in all_of(witness)}
                    new = [p.id for p in replaced if stored.get(p.id) == p.text]
                    assert new in ([], [p.id for p in replaced])
                proxy.cut = lambda data: False
                memory.add(replaced)
                assert {p.id: p.text for p in memory.get([str(p.id) for p in replaced])} == {
                    p.id: p.text for p in replaced
                }
        assert failed > 5
        assert witness.check().problems == []


def all_of(store: Any) -> list[Passage]:
    with store.reading() as view:
        passages: list[Passage] = view.passages(view.matching(None))
    return passages


def test_a_line_cut_in_the_very_commit_can_be_repeated(proxy: Proxy, address: str) -> None:
    """The server has stored it and the client does not know: adding again stores nothing twice."""
    with open_engine(address) as witness, HybridMemory(path=through(proxy, address)) as memory:
        memory.add(CORPUS[:5])
        proxy.cut_answer = lambda sent: b"COMMIT" in sent[-100:]
        with pytest.raises(EngineError):
            memory.add(CORPUS[5:10])
        proxy.cut_answer = lambda sent: False
        rows = witness.rows_of([str(p.id) for p in CORPUS[5:10]])
        assert None not in rows
        assert memory.add(CORPUS[5:10]) == [p.id for p in CORPUS[5:10]]
        assert witness.rows_of([str(p.id) for p in CORPUS[5:10]]) == rows
        assert witness.check().problems == []


def test_a_server_killed_while_writing_recovers_whole(address: str, query: Any) -> None:
    """Its processes are ended by SIGKILL, so that PostgreSQL recovers from its log."""
    with HybridMemory(path=address) as memory:
        memory.add(CORPUS[:10])
        errors: list[Exception] = []

        def write() -> None:
            for number in range(40):
                batch = [Passage(f"{p.text} Version {number}.", p.title, p.id) for p in CORPUS[10:30]]
                try:
                    memory.add(batch)
                except EngineError as error:
                    errors.append(error)
                    return

        writing = threading.Thread(target=write)
        writing.start()
        time.sleep(1.0)
        ((pid,),) = query("SELECT min(pid) FROM pg_stat_activity WHERE application_name = 'hybridmem'")
        kill(pid)
        writing.join(30)
        wait_for(lambda: query("SELECT 1"))
        assert errors
        assert "PostgreSQL at" in str(errors[0])
        assert memory.store.check().problems == []
        texts = {p.text.rpartition("Version ")[2] for p in memory.get([str(p.id) for p in CORPUS[10:30]])}
        assert len(texts) <= 1  # all of one version
        last = [Passage(f"{p.text} Version last.", p.title, p.id) for p in CORPUS[10:30]]
        memory.add(last)
        assert memory.get([str(p.id) for p in last]) == last
        assert memory.store.check().problems == []


def kill(pid: int) -> None:
    """End one server process by SIGKILL; PostgreSQL then ends all others and recovers."""
    import os
    import signal

    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pytest.skip("the server's processes are not ours to end")


def wait_for(call: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            call()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


FORKING = """
import os, sys, threading
from hybridmem_plugins import HybridMemory, Passage
from hybridmem_plugins.errors import EngineError

def in_child(call):
    process = os.fork()
    if not process:
        limit = threading.Timer(40, os._exit, [3])  # where it hangs
        limit.daemon = True
        limit.start()
        try:
            call()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        sys.exit(0)  # as a worker of a server ends: with all that is left to be cleared up
    return process

def wait(*processes):
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * len(processes)

memory = HybridMemory(path={address!r})
memory.add([Passage(f"Passage number {{n}}.", id=str(n)) for n in range(20)])

def look(n, times=12):  # more often than there are lines
    for _ in range(times):
        assert memory.search(f"number {{n}}", k=1)[0].passage.id == str(n)

look(1)
children = [in_child(lambda n=n: (look(n), memory.add([Passage(f"Child {{n}}.", id=f"c{{n}}")]))) for n in range(2, 5)]
look(1, 40)
wait(*children)
# Other threads are at work.
ended = threading.Event()

def work(n):
    while not ended.is_set():
        look(n, 1)

threads = [threading.Thread(target=work, args=[n]) for n in range(5, 8)]
[thread.start() for thread in threads]
for n in range(3):
    wait(in_child(lambda: (look(8, 3), memory.close())))
ended.set()
[thread.join() for thread in threads]

# In the middle of a question of this thread: the child is refused what is the parent's, and begins anew after it.
def ask():
    try:
        len(view)
    except EngineError:
        return
    raise AssertionError

with memory.store.reading() as view:
    process = os.fork()
    if process:
        assert len(view) == 23
        wait(process)
    else:
        ask()
if not process:
    look(9)
    os._exit(0)
look(1, 20)
report = memory.store.check()
assert report.ok and report.passages == 23, report
memory.close()
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_lines_of_its_own(address: str) -> None:
    code = FORKING.format(address=address)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=180)
    assert done.stdout == "forked\n", done.stderr
