from __future__ import annotations

import threading
import time

import pytest

from hybridmem_plugins.memory.lock import ReadWriteLock


def test_readers_share_and_keep_a_writer_out() -> None:
    lock = ReadWriteLock()
    with lock.read(), lock.read():
        with pytest.raises(TimeoutError), lock.write(timeout=0.01):
            pass
        with lock.read(timeout=0.01):  # the writer that gave up no longer holds readers back
            pass
    with lock.write(timeout=0.01), pytest.raises(TimeoutError), lock.read(timeout=0.01):
        pass


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []

    def write() -> None:
        with lock.write():
            order.append("writer")

    def read() -> None:
        with lock.read():
            order.append("reader")

    lock.acquire_read()
    writer = threading.Thread(target=write)
    writer.start()
    while not lock._writers_waiting:
        time.sleep(0.001)
    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.02)
    assert order == []
    lock.release_read()
    writer.join(5)
    reader.join(5)
    assert order == ["writer", "reader"]


def test_downgrade_lets_readers_in_but_no_writer() -> None:
    lock = ReadWriteLock()
    lock.acquire_write()
    lock.downgrade()
    with lock.read(timeout=0.01), pytest.raises(TimeoutError), lock.write(timeout=0.01):
        pass
    lock.release_read()
    with lock.write(timeout=0.01):
        pass


def test_a_counter_is_never_torn() -> None:
    lock = ReadWriteLock()
    pair = [0, 0]
    torn: list[tuple[int, int]] = []

    def write() -> None:
        for _ in range(300):
            with lock.write():
                pair[0] += 1
                time.sleep(0)
                pair[1] += 1

    def read() -> None:
        for _ in range(300):
            with lock.read():
                seen = (pair[0], pair[1])
            if seen[0] != seen[1]:
                torn.append(seen)

    threads = [threading.Thread(target=task) for task in [write, write, read, read, read]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert pair == [600, 600]
    assert not torn
