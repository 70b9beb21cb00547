"""Threads that a forked process has, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


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
        self._process = os.getpid()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in one of the threads; see `ThreadPoolExecutor.submit`."""
        if self._process != os.getpid():
            Workers.__init__(self, self._count, self._name)
        return super().submit(fn, *args, **kwargs)
