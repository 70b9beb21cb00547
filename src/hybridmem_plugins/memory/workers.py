"""Threads that a forked process has, too."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakSet

_pools: WeakSet[Workers] = WeakSet()


class Workers(ThreadPoolExecutor):
    """A pool of threads that starts anew in a child of its process, which has none of the threads.

    Args:
        count: How many threads at most.
        name: What their names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._count = count
        self._name = name
        _pools.add(self)

    def start_anew(self) -> None:
        """Forget the threads of the process that this one was forked from, and what they were to do."""
        super().__init__(self._count, thread_name_prefix=self._name)


def _start_anew() -> None:
    for pool in list(_pools):
        pool.start_anew()


if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
    os.register_at_fork(after_in_child=_start_anew)
